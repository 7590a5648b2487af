"""Gemma's tokenizer: SentencePiece BPE with byte fallback. Needs no TensorFlow."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import sentencepiece

from gemma_tf_distill.errors import WeightsError

if TYPE_CHECKING:
    import keras_hub


class Tokenizer:
    """Text to token ids and back, by one SentencePiece model.

    Two tokenizers are equal when their protos are. A tokenizer can be pickled, so Beam may send it to its workers.

    Attributes:
      proto: the serialized SentencePiece `ModelProto`.
      vocabulary_size: number of pieces.
      pad_id: id of `<pad>`; likewise `eos_id`, `bos_id` and `unk_id`.
    """

    def __init__(self, proto: bytes):
        """Reads a serialized SentencePiece `ModelProto`.

        Raises:
          WeightsError: if `proto` is none, or lacks one of `<pad>`, `<eos>`, `<bos>` and `<unk>`.
        """
        self.proto = bytes(proto)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.proto)
        except RuntimeError as error:
            raise WeightsError(f"the tokenizer ({len(self.proto)} bytes) is not a SentencePiece model: {error}") from error
        self.vocabulary_size: int = self._processor.GetPieceSize()
        self.pad_id, self.eos_id, self.bos_id, self.unk_id = (self._special(piece) for piece in ("<pad>", "<eos>", "<bos>", "<unk>"))

    def _special(self, piece: str) -> int:
        token_id = self.id_of(piece)
        if token_id is None:
            raise WeightsError(f"the tokenizer has no {piece} among its {self.vocabulary_size} pieces: it is not a Gemma tokenizer")
        return token_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.proto == other.proto

    def __hash__(self) -> int:
        return hash(self.proto)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes]]:
        return Tokenizer, (self.proto,)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; neither `<bos>` nor `<eos>` is added."""
        return self._processor.EncodeAsIds(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as `encode` gives them, by all cores at once."""
        return self._processor.Encode(list(texts), out_type=int)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; control pieces such as `<bos>` have none. Bytes that are not UTF-8 become U+FFFD."""
        return self._processor.DecodeIds([int(i) for i in ids])

    def piece(self, token_id: int) -> str:
        """The piece of an id, with `▁` for a space."""
        if not 0 <= token_id < self.vocabulary_size:
            raise IndexError(f"token id must be between 0 and {self.vocabulary_size - 1}, not {token_id}")
        return self._processor.IdToPiece(int(token_id))

    def byte_lengths(self) -> list[int]:
        """Of each id, how many bytes of a text it stands for: 1 of a byte piece, 0 of control pieces such as `<bos>` and of `<unk>`."""
        processor = self._processor

        def length(token_id: int) -> int:
            if processor.IsControl(token_id) or processor.IsUnknown(token_id):
                return 0
            return 1 if processor.IsByte(token_id) else len(processor.IdToPiece(token_id).replace("▁", " ").encode())

        return [length(token_id) for token_id in range(self.vocabulary_size)]

    def byte_ids(self) -> list[int]:
        """Ids of the byte pieces, in which a text is spelled where no other piece fits."""
        return [token_id for token_id in range(self.vocabulary_size) if self._processor.IsByte(token_id)]

    def id_of(self, piece: str) -> int | None:
        """The id of a piece (with `▁` for a space), none where there is no such piece."""
        token_id = self._processor.PieceToId(piece)
        # SentencePiece answers <unk> for what it does not know.
        return token_id if self._processor.IdToPiece(token_id) == piece else None

    def keras_hub(self, **arguments: Any) -> "keras_hub.models.Gemma3Tokenizer":
        """The same tokenizer as KerasHub's layer, for text-only models."""
        import keras_hub

        return keras_hub.models.Gemma3Tokenizer(proto=self.proto, has_vision_tokens=False, **arguments)
