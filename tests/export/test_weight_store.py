"""A SavedModel of a quantised student holds a byte a weight, and reads back the student's own numbers."""

import os

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.export.weight_store import WeightStore
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.quantization.apply import fake_quantized
from gemma_tf_distill.quantization.layout import matmul_shapes

SCHEMES = {
    "fp8": QuantizationConfig(scheme="fp8_e4m3"),
    "int8": QuantizationConfig(scheme="int8_channel"),
    "blocks": QuantizationConfig(scheme="int4_block32"),
    "mixed": QuantizationConfig(scheme="fp8_e4m3", overrides={"embedding": "int4_channel", "layers.0.down": "float"}),
}


@pytest.fixture(params=SCHEMES)
def config(request) -> QuantizationConfig:
    return SCHEMES[request.param]


def test_a_settled_student_is_read_back_to_the_bit(make_gemma, config):
    student = fake_quantized(make_gemma(), config)
    store, expected = WeightStore(student, config), weights_of(student)
    read = tf.function(store.read)
    for _ in range(2):
        found = read()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        store.unpack()


def test_a_matrix_takes_one_byte_a_weight(make_gemma, config):
    student = make_gemma()
    held = [tuple(variable.shape) for variable in WeightStore(student, config).variables if variable.dtype.size == 1]
    assert sorted(held) == sorted(shape for name, shape in matmul_shapes(student.config).items() if config.scheme_of(name))


@pytest.mark.slow
def test_the_saved_model_writes_what_the_student_writes_in_a_quarter_of_the_bytes(make_gemma, tmp_path):
    config = SCHEMES["fp8"]
    student = fake_quantized(make_gemma(), config)
    sizes = {"context_length": 32, "max_new_tokens": 8, "window": 16, "top_k": 4}
    texts, bytes_on_disk = [], []
    for name, quantization in (("float", None), ("fp8", config)):
        path = str(tmp_path / name)
        export_saved_model(student, path, quantization=quantization, **sizes)
        loaded = tf.saved_model.load(path)
        for _ in range(2):
            texts.append(loaded.signatures["serving_default"](prompt=tf.constant(["Returns the", "A layer"]))["text"].numpy().tolist())
            loaded.unpack()
        folder = os.path.join(path, "variables")
        bytes_on_disk.append(sum(os.path.getsize(os.path.join(folder, file)) for file in os.listdir(folder) if ".data-" in file))
    assert texts[0] == texts[1] == texts[2] == texts[3]
    assert any(texts[0])
    assert bytes_on_disk[1] < 0.4 * bytes_on_disk[0]
