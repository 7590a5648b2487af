"""What every runtime does with token ids: when to stop, and how they become text bit by bit. Needs no TensorFlow."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from gemma_tf_distill.gemma.tokenizer import Tokenizer


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end a completion: `<eos>`, and `<end_of_turn>` where the vocabulary has it."""
    end_of_turn = tokenizer.id_of("<end_of_turn>")
    return (tokenizer.eos_id,) if end_of_turn is None else (tokenizer.eos_id, end_of_turn)


class Decodes(Protocol):
    """A tokenizer, as far as it makes text."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""


def text_pieces(tokenizer: Decodes, ids: Iterable[int]) -> Iterator[str]:
    """Text of token ids as they come. A character whose bytes are spread over several tokens comes when it is whole."""
    pending: list[int] = []
    for token in ids:
        pending.append(token)
        text = tokenizer.decode(pending)
        # The first bytes of a character alone decode to U+FFFD.
        if not text.endswith("\ufffd"):
            pending = []
            if text:
                yield text
    if pending:
        yield tokenizer.decode(pending)
