"""The section `attention`: how the models' attention is computed while they train and score; what it computes stays the same."""

import dataclasses

from gemma_tf_distill.config.checking import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How student and teacher compute their attention.

    Attributes:
      use_flash_attention: in blocks of queries and keys, so that memory grows with a window's length and not with its square, and
        a local layer's time too (`EfficientAttention`). Off: all scores at once, as KerasHub does.
      block_size: queries and keys in a block, a multiple of 8; windows that are no multiple of it are padded inside.
    """

    use_flash_attention: bool = False
    block_size: int = 512

    def __post_init__(self) -> None:
        check(self.block_size >= 1 and self.block_size % 8 == 0, "attention.block_size", "a multiple of 8, at least 8", self.block_size)
