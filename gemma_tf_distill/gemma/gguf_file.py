"""The GGUF container: metadata and tensors of one file, each tensor dequantised when asked for.

The format is llama.cpp's (ggml's `docs/gguf.md`). The `gguf` package's own reader keeps a numpy view for every vocabulary entry
and takes ten seconds for Gemma's; this one reads the same header in well under a second and checks it on the way. Dequantising is
the package's.
"""

import dataclasses
import math
import mmap
import os
import struct
from typing import Any

import gguf
import numpy as np

from gemma_tf_distill.errors import WeightsError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32
_ROWS_AT_A_TIME = 16_384


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is.

    Attributes:
      shape: outermost dimension first, as numpy has it (the file has it the other way round).
      quantization: how its values are stored.
      offset: of its first byte, from the beginning of the file.
      bytes: its length.
    """

    shape: tuple[int, ...]
    quantization: gguf.GGMLQuantizationType
    offset: int
    bytes: int


class GGUFFile:
    """One GGUF file, mapped into memory.

    Attributes:
      path: of the file.
      metadata: key to value; arrays of numbers are numpy arrays, arrays of texts are lists.
      tensors: name to TensorInfo, in the file's order.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads the header and checks that every tensor lies inside the file.

        Raises:
          WeightsError: if there is no such file, it is not GGUF, or its header or its end is missing or damaged.
        """
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise WeightsError(f"there is no GGUF file {self.path}")
        self._size = os.path.getsize(self.path)
        if self._size < 24:
            raise WeightsError(f"{self.path} ({self._size} bytes) is too short to be a GGUF file")
        with open(self.path, "rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        try:
            self._read_header()
        # What a damaged header can make of the numbers that it is read by.
        except (struct.error, ArithmeticError, LookupError, ValueError, TypeError, MemoryError, RecursionError) as error:
            raise WeightsError(f"{self.path} is damaged or truncated: its header breaks off or is wrong near byte {self._at}") from error
        for name, info in self.tensors.items():
            if info.offset + info.bytes > self._size:
                raise WeightsError(
                    f"{self.path} is truncated: tensor {name} ends at byte {info.offset + info.bytes:,}, the file at {self._size:,}"
                )

    def _read_header(self) -> None:
        magic = self._take(4)
        if magic != b"GGUF":
            raise WeightsError(f"{self.path} is not a GGUF file: it begins with {magic!r}")
        version = self._number("<I")
        if version not in (2, 3):
            raise WeightsError(f"{self.path} is GGUF version {version}; versions 2 and 3 can be read")
        tensor_count, key_count = self._number("<Q"), self._number("<Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._text()
            self.metadata[key] = self._value(self._number("<I"))
        infos = []
        for _ in range(tensor_count):
            name = self._text()
            shape = tuple(self._number("<Q") for _ in range(self._number("<I")))[::-1]
            infos.append((name, shape, gguf.GGMLQuantizationType(self._number("<I")), self._number("<Q")))
        alignment = int(self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
        start = math.ceil(self._at / alignment) * alignment
        self.tensors: dict[str, TensorInfo] = {}
        for name, shape, quantization, offset in infos:
            length = math.prod(gguf.quants.quant_shape_to_byte_shape(shape, quantization))
            self.tensors[name] = TensorInfo(shape, quantization, start + offset, length)

    def _take(self, count: int) -> bytes:
        if count > self._size - self._at:
            raise ValueError("beyond the end")
        self._at += count
        return self._data[self._at - count : self._at]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _text(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._number(_SCALARS[kind])
        item, count = self._number("<I"), self._number("<Q")
        if item in _SCALARS:
            dtype = np.dtype(_SCALARS[item])
            return np.frombuffer(self._take(count * dtype.itemsize), dtype)
        return [self._value(item) for _ in range(count)]

    def tensor(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """A tensor's values, or some of its rows, in float32.

        Args:
          name: must be in `tensors`.
          rows: of the outermost dimension.

        Raises:
          WeightsError: if its quantisation is unknown to the `gguf` package, or a value is not finite.
        """
        info = self.tensors[name]
        stored = np.frombuffer(self._data, np.uint8, info.bytes, info.offset).reshape(info.shape[0], -1)[rows]
        if len(info.shape) == 1:
            stored = stored.reshape(-1)
        try:
            values = gguf.dequantize(stored, info.quantization)
        except NotImplementedError as error:
            raise WeightsError(
                f"{self.path}: tensor {name} is stored as {info.quantization.name}, which the gguf package cannot dequantise; "
                "choose a file with another quantisation"
            ) from error
        if not np.isfinite(values).all():
            raise WeightsError(f"{self.path} is damaged: tensor {name} has values that are not finite")
        return values

    def blocks(self, name: str) -> list[slice]:
        """Slices of rows that cover a tensor, so that a large one need not be dequantised at once."""
        return [slice(first, first + _ROWS_AT_A_TIME) for first in range(0, self.tensors[name].shape[0], _ROWS_AT_A_TIME)]
