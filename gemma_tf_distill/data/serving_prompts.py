"""Prompts as they come when the model serves, from the file that `data_validation.serving_prompts` names."""

import heapq
import os
from collections.abc import Iterator

from gemma_tf_distill.data import files
from gemma_tf_distill.data.formats import read_jsonl, read_text
from gemma_tf_distill.data.splitting import document_hash
from gemma_tf_distill.errors import CorpusError


def read_serving_prompts(path: str, field: str, most: int) -> list[str]:
    """The prompts of a file, one a line or, in `.jsonl` files, the text of each object's `field`; blank ones are left out.

    Args:
      path: local or remote; a name that ends in `.gz` is decompressed.
      field: of JSONL.
      most: of more prompts so many are kept, by a hash of their text.

    Raises:
      CorpusError: if the file can't be read, is not text or JSONL, or has no prompt.
    """
    path = _expanded(path)
    try:
        prompts = heapq.nsmallest(most, _prompts(path, field), key=document_hash)
    except CorpusError as error:
        raise CorpusError(f"data_validation.serving_prompts: {error}") from error
    if not prompts:
        raise CorpusError(f"data_validation.serving_prompts: {path} has no prompts: write one a line, or set it to null")
    return prompts


def prompts_fingerprint(path: str | None) -> str:
    """Size and time of the last change of a file of prompts, empty for none, so that changed prompts miss the pipeline's cache.

    Raises:
      CorpusError: if there is no such file.
    """
    if path is None:
        return ""
    try:
        size, changed = files.stat(_expanded(path))
    except CorpusError as error:
        raise CorpusError(f"data_validation.serving_prompts: {error}") from error
    return f"{size}:{changed}"


def _expanded(path: str) -> str:
    return path if files.is_remote(path) else os.path.expanduser(path)


def _prompts(path: str, field: str) -> Iterator[str]:
    is_jsonl = path.removesuffix(".gz").endswith(".jsonl")
    texts = (record.text for record in read_jsonl(path, field, None)) if is_jsonl else read_text(path, "\n")
    return (text.removesuffix("\r") for text in texts if text.strip())
