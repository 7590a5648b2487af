"""Parity of a version's folder: which files are in it, which student they were made of, and which text was held out."""

import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from gemma_tf_distill.config import CorpusConfig, QuantizationConfig, config_from_dict
from gemma_tf_distill.data.batches import split_files
from gemma_tf_distill.data.documents import expand_sources, read_shard
from gemma_tf_distill.data.first_windows import first_windows
from gemma_tf_distill.data.packing import pack
from gemma_tf_distill.errors import CorpusError, WeightsError
from gemma_tf_distill.export.bundle import PLACES
from gemma_tf_distill.export.generation import exists
from gemma_tf_distill.export.manifest import read_manifest
from gemma_tf_distill.export.parity.measure import measure_parity
from gemma_tf_distill.export.parity.report import ParityReport
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.teacher import load_teacher
from gemma_tf_distill.gemma.tokenizer import Tokenizer
from gemma_tf_distill.quantization.apply import fake_quantized


def parity_of_version(
    folder: str,
    *,
    student: str | None = None,
    text: str | None = None,
    tokens: int | None = None,
) -> ParityReport:
    """Compares the files of a pushed or exported version with the student that they were made of.

    Args:
      folder: local, with a manifest.
      student: what was exported, where the manifest's own is out of reach: a folder of `Gemma.save`, or anything that `load_teacher`
        takes. In a scheme it is rounded to its lattices.
      text: on what to compare, as `corpus.source`; none: the held-out windows that the manifest names, or where it names none, the
        corpus of its config.
      tokens: how many; none: the config's `export.parity_tokens`.

    Raises:
      WeightsError: if there is no version or none of its files, or the student is out of reach.
      CorpusError: if the text is out of reach.
      ConfigError: if there is too little of it.
    """
    manifest = read_manifest(folder)
    config = config_from_dict(manifest["config"])
    files = {format: path for format, place in PLACES.items() if os.path.exists(path := os.path.join(folder, place))}
    if not files:
        raise WeightsError(f"{folder} holds none of {', '.join(PLACES.values())}: give the folder of a pushed version")
    quantization = config.quantization if config.quantization.scheme else None
    model = _student(student or _uri(manifest["parents"], "student"), quantization)
    count = tokens or config.export.parity_tokens
    windows = _windows(manifest["parents"], config.corpus, text, model.tokenizer, count)
    return measure_parity(
        files,
        model,
        windows[:, : config.export.context_length],
        quantization=quantization,
        prompts=config.export.prompts,
        max_new_tokens=config.export.max_new_tokens,
    )


def _uri(parents: Mapping[str, Any], name: str) -> str:
    return parents.get(name, {}).get("uri", "").removeprefix("file://")


def _student(source: str, quantization: QuantizationConfig | None) -> Gemma:
    if not source:
        raise WeightsError("the manifest does not say which student was exported: name it with --student")
    inside = os.path.join(source, "student")
    if exists(inside):
        model = Gemma.load(inside)
    else:
        try:
            model = load_teacher(source)
        except WeightsError as error:
            raise WeightsError(f"the student that was exported is out of reach ({error}): name it with --student") from error
    return model if quantization is None else fake_quantized(model, quantization)


def _windows(parents: Mapping[str, Any], corpus: CorpusConfig, text: str | None, tokenizer: Tokenizer, tokens: int) -> np.ndarray:
    examples = _uri(parents, "examples")
    if text is None and examples:
        if not exists(examples):
            raise CorpusError(f"the text that was held out is no longer at {examples}: name another one with --text")
        return first_windows(split_files(examples, "heldout"), corpus.window, tokens)
    section = corpus if text is None else CorpusConfig(source=text, window=corpus.window)
    documents = (document.text for shard in expand_sources(section) for document in read_shard(shard))
    long_enough = (tokenizer.encode(document) for document in documents if len(document) >= section.min_characters)
    windows = list(itertools.islice(pack(long_enough, section.window), -(-tokens // section.window)))
    return np.stack(windows) if windows else np.zeros([0, section.window], np.int64)
