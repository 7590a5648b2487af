"""One export of the tiny teacher for all tests of this room."""

import importlib.util
import pathlib

import pytest

from gemma_tf_distill.export.hugging_face import export_hugging_face
from gemma_tf_distill.export.litert import export_litert
from gemma_tf_distill.export.litert_lm import export_litert_lm
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.gemma.model import Gemma


@pytest.fixture(scope="session")
def pushed(tiny_teacher: Gemma, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A pushed version's folder: context 64, 10 new tokens, windows of 24, 8 teacher words, prefill lengths 4 and 16."""
    folder = tmp_path_factory.mktemp("pushed") / "1"
    export_saved_model(tiny_teacher, str(folder / "saved_model"), context_length=64, max_new_tokens=10, window=24, top_k=8)
    export_litert(tiny_teacher, str(folder / "model.tflite"), context_length=64, prefill_lengths=(4, 16))
    (folder / "tokenizer.model").write_bytes(tiny_teacher.tokenizer.proto)
    export_litert_lm(str(folder / "model.tflite"), tiny_teacher.tokenizer, str(folder / "model.litertlm"), context_length=64)
    if importlib.util.find_spec("torch"):
        export_hugging_face(tiny_teacher, str(folder / "hugging_face"))
    return folder
