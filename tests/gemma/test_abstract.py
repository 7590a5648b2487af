"""A model without weights takes no memory, now and later."""

import keras

from gemma_tf_distill.gemma.abstract import abstract_gemma, without_values


def test_its_variables_have_shapes_and_never_values(tiny_teacher):
    model = abstract_gemma(tiny_teacher.backbone.get_config(), "float32")
    assert [v.shape for v in model.backbone.variables] == [v.shape for v in tiny_teacher.backbone.variables]
    # The next model that Keras makes gives values to whatever waits for one.
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    with keras.StatelessScope():
        keras.layers.Dense(2).build((None, 3))
    assert layer.kernel.numpy().shape == (3, 2)
    for variable in model.backbone.variables:
        assert variable._value is None


def test_variables_that_waited_before_still_get_theirs():
    with keras.StatelessScope():
        waiting = keras.Variable("ones", shape=(2,))
        with without_values():
            never = keras.Variable("ones", shape=(2,))
    assert waiting.numpy().tolist() == [1, 1]
    assert never._value is None
