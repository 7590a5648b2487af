"""What rounding does to each matrix."""

import numpy as np
import pytest

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.quantization.apply import fake_quantized
from gemma_tf_distill.quantization.errors import rounding_errors


@pytest.mark.parametrize("scheme", ["int4_block32", "int4_channel", "int8_channel", "fp8_e4m3"])
def test_it_is_the_distance_to_the_rounded_model(make_gemma, scheme):
    model, config = make_gemma(), QuantizationConfig(scheme=scheme)
    errors = rounding_errors(model, config)
    before, after = weights_of(model), weights_of(fake_quantized(model, config))
    assert {"embedding", "layers.0.query", "layers.1.down"} <= errors.keys() <= before.keys()
    for name, error in errors.items():
        distance = np.linalg.norm(np.float64(after[name]) - before[name]) / np.linalg.norm(np.float64(before[name]))
        assert error == pytest.approx(distance, rel=1e-4)
        assert error > 0


def test_on_the_lattice_nothing_is_rounded(make_gemma):
    config = QuantizationConfig(scheme="int4_block32", overrides={"embedding": "float"})
    errors = rounding_errors(fake_quantized(make_gemma(), config), config)
    assert "embedding" not in errors
    assert set(errors.values()) == {0.0}
