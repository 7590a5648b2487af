"""The weights of a `.tflite` in the integers that training left them on, and which numbers a finished file holds."""

import collections
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from gemma_tf_distill.errors import ConfigError, MissingExtraError, WeightsError
from gemma_tf_distill.export.native_output import native_output_to_log
from gemma_tf_distill.quantization.layout import matmul_shapes
from gemma_tf_distill.quantization.schemes import IntegerScheme, Scheme

Content: TypeAlias = bytes | bytearray

# The converter calls a constant as the operation that read its variable, and numbers the names of several signatures.
_WEIGHT_NAME = re.compile(r"(embedding|layers\.\d+\.\w+)/Read/ReadVariableOp\d*")
# Both have their weight as the second input.
_OPERATIONS = ("FULLY_CONNECTED", "EMBEDDING_LOOKUP")
# XNNPACK refuses to load a block scale below it.
_LEAST_BLOCK_SCALE = np.finfo(np.float16).tiny


class StoredWeight(NamedTuple):
    """A matrix as a file holds it.

    Attributes:
      codes: int8 [out, in], also where they take 4 bits each; float32 for a matrix that is not quantised.
      scales: float32 [out, 1] or [out, blocks]; [0, 0] for a matrix that is not quantised.
    """

    codes: np.ndarray
    scales: np.ndarray


class _Product(NamedTuple):
    """An operation that takes a weight.

    Attributes:
      operation: one of `_OPERATIONS`.
      scope: the name of its output.
      weight: the weight's name as of `gemma.functional.weights_of`, or the tensor's own where it is none of those.
      tensor: of the weight.
      block_scales: the tensor of the scales of blocks; none: there are no blocks.
    """

    operation: str
    scope: str
    weight: str
    tensor: Any
    block_scales: Any | None


def read_weight(name: str, variable: tf.Variable) -> tf.Tensor:
    """A variable's value, in a graph to be converted, so that the file's constant can be told by its name."""
    with tf.name_scope(name):
        return variable.read_value()


def check_schemes(schemes: Mapping[str, Scheme], sizes: Mapping[str, Any]) -> None:
    """Raises ConfigError for the first weight whose scheme a `.tflite` can't hold, or its runtime not multiply by.

    Args:
      schemes: of the weights.
      sizes: a backbone's config.
    """
    shapes = matmul_shapes(sizes)
    for name, scheme in schemes.items():
        inputs = shapes[name][1]
        if scheme.code_bits == 4 and inputs % 2:
            # Two codes share a byte. LiteRT 2.3 loads such a file, and computes something else with it.
            raise ConfigError(
                f"{name} has {inputs} inputs, and LiteRT multiplies by int4 weights with an even number of inputs only: choose "
                "int8_channel in quantization.overrides for it, or other sizes"
            )
        if not isinstance(scheme, IntegerScheme):
            raise ConfigError(
                f"{name} is quantised as {scheme.name}, and a .tflite holds weights in int4, int8 and float32: choose another "
                "quantization.scheme, or leave tflite out of export.formats"
            )


def quantized_litert(content: bytes, schemes: Mapping[str, Scheme]) -> bytes:
    """Quantises a `.tflite` with ai-edge-quantizer's plain min-max, which finds the integers of weights that lie on their lattice.

    Both uses of the tied embedding get one recipe, so that it stays in the file once. What enters the products stays float32 in the
    file; the runtime quantises it, token by token.

    Args:
      content: a float32 file whose weights `read_weight` named.
      schemes: of the weights to quantise, of integers; all others stay float32.

    Raises:
      MissingExtraError: if ai-edge-quantizer is not installed.
    """
    try:
        from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName
        from ai_edge_quantizer.quantizer import Quantizer
    except ImportError as error:
        raise MissingExtraError("ai-edge-quantizer", "litert", "quantising a .tflite") from error
    scopes = collections.defaultdict(list)
    for product in _products(content):
        if product.weight in schemes:
            scopes[schemes[product.weight], product.operation].append(re.escape(product.scope))
    with tempfile.TemporaryDirectory() as folder, native_output_to_log("LiteRT quantizer"):
        # From a file, which the quantizer maps instead of reading.
        path = os.path.join(folder, "float.tflite")
        with open(path, "wb") as file:
            file.write(content)
        quantizer = Quantizer(path)
        for (scheme, operation), names in scopes.items():
            quantizer.add_dynamic_config(
                # What it is matched with: the names of an operation's outputs, a semicolon after each.
                f"^(?:{'|'.join(names)});$",
                TFLOperationName(operation),
                scheme.code_bits,
                QuantGranularity(f"BLOCKWISE_{scheme.block}" if scheme.block else "CHANNELWISE"),
            )
        quantized = bytearray(quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)
    _raise_small_scales(quantized, content, schemes)
    return bytes(quantized)


def stored_weights(content: Content) -> Iterator[tuple[str, StoredWeight]]:
    """What the products and lookups of a file read, by the weight's name. Signatures share codes; where their scales, which each has of
    its own, are the same too, a weight comes once.

    Args:
      content: a file of `export_litert`, quantised or not.

    Raises:
      WeightsError: for a weight in numbers that `quantized_litert` makes none of.
    """
    seen = set()
    for product in _products(content):
        scales = _scales(content, product)
        place = product.weight, product.tensor.Buffer(), scales.tobytes()
        if place not in seen:
            seen.add(place)
            yield product.weight, StoredWeight(_codes(content, product), scales)


def _raise_small_scales(quantized: bytearray, content: bytes, schemes: Mapping[str, Scheme]) -> None:
    """Writes the lattice's own numbers over those of matrices with blocks of zeros, or nearly: theirs would have too small a scale."""
    originals = {product.weight: product for product in _products(content)}
    for product in _products(quantized):
        if product.block_scales is None:
            continue
        stored = _buffer(quantized, product.block_scales).view(np.float16)
        if np.all(stored >= _LEAST_BLOCK_SCALE):
            continue
        scheme, rows = schemes[product.weight], tf.constant(_codes(content, originals[product.weight]))
        scales = scheme.scales(rows)
        stored[:] = np.asarray(scales).reshape(-1)
        codes = scheme.stored(np.asarray(scheme.codes(rows, scales))).reshape(-1).view(np.uint8)
        _buffer(quantized, product.tensor)[:] = (codes[::2] & 15) | (codes[1::2] << 4)


def _products(content: Content) -> Iterator[_Product]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    known = {getattr(schema.BuiltinOperator, name): name for name in _OPERATIONS}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            operation = known.get(model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode())
            if operation is None:
                continue
            tensor, block_scales = graph.Tensors(operator.Inputs(1)), None
            quantization = tensor.Quantization()
            if quantization is not None and quantization.DetailsType() == schema.QuantizationDetails.BlockwiseQuantization:
                details, table = schema.BlockwiseQuantization(), quantization.Details()
                details.Init(table.Bytes, table.Pos)
                block_scales = graph.Tensors(details.Scales())
            name = tensor.Name().decode()
            match = _WEIGHT_NAME.fullmatch(name)
            scope = graph.Tensors(operator.Outputs(0)).Name().decode()
            yield _Product(operation, scope, match[1] if match else name, tensor, block_scales)


def _codes(content: Content, product: _Product) -> np.ndarray:
    """As of `StoredWeight`."""
    from ai_edge_litert.schema_py_generated import TensorType

    kind, data = product.tensor.Type(), _buffer(content, product.tensor)
    if kind == TensorType.INT4:
        # Two in a byte, the first in the lower half.
        data = (np.stack([data & 15, data >> 4], axis=-1) ^ 8) - np.uint8(8)
    elif kind not in (TensorType.FLOAT32, TensorType.INT8):
        raise WeightsError(f"{product.weight} is of LiteRT's tensor type {kind}, and not float32, int8 or int4: export the model again")
    return data.view(np.float32 if kind == TensorType.FLOAT32 else np.int8).reshape(product.tensor.ShapeAsNumpy())


def _scales(content: Content, product: _Product) -> np.ndarray:
    """As of `StoredWeight`."""
    quantization = product.tensor.Quantization()
    if product.block_scales is not None:
        scales = _buffer(content, product.block_scales).view(np.float16)
    elif quantization is None or quantization.ScaleIsNone():
        return np.zeros((0, 0), np.float32)
    else:
        scales = quantization.ScaleAsNumpy()
        if np.any(quantization.ZeroPointAsNumpy()):
            raise WeightsError(f"{product.weight} has zero points, and no scheme here has any: export the model again")
    return scales.astype(np.float32).reshape(product.tensor.Shape(0), -1)


def _buffer(content: Content, tensor: Any) -> np.ndarray:
    """uint8, of what the flatbuffer holds or, as the quantizer does it with large files, what lies behind it."""
    from ai_edge_litert.schema_py_generated import Model

    buffer = Model.GetRootAs(content).Buffers(tensor.Buffer())
    if buffer.Offset() > 1:
        return np.frombuffer(content, np.uint8, buffer.Size(), buffer.Offset())
    return buffer.DataAsNumpy()
