"""Runs a `.tflite` of a Gemma 3 in LiteRT. Imports neither TensorFlow nor Keras, so that it starts at once."""

import functools
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from gemma_tf_distill.errors import MissingExtraError, WeightsError
from gemma_tf_distill.export.names import CACHE, DECODE, PREFILL, prefill_name
from gemma_tf_distill.export.native_output import native_output_to_log, silence_native_output_at_exit


@functools.cache
def _environment() -> Any:
    """One LiteRT environment for the process: each one that is made or goes prints lines of its own."""
    import ai_edge_litert
    from ai_edge_litert.environment import Environment, EnvironmentOptions

    silence_native_output_at_exit()
    return Environment.create(options=EnvironmentOptions(runtime_path=os.path.dirname(ai_edge_litert.__file__)))


class LiteRtModel:
    """A loaded `.tflite` and its cache. It holds one sequence; a sequence begins anew at position 0.

    Attributes:
      context_length: tokens that the cache holds.
      vocabulary_size: words that a prediction ranks.
      prefill_lengths: lengths of the prefill signatures, rising.
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        """Loads a file.

        Args:
          path: a local file that `export_litert` wrote.
          threads: threads that the CPU may use; none: as many as there are processors.

        Raises:
          MissingExtraError: if ai-edge-litert is not installed.
          WeightsError: if the file is not a `.tflite`, is damaged, or holds another kind of model.
        """
        try:
            from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options
        except ImportError as error:
            raise MissingExtraError("ai-edge-litert", "litert", "running a .tflite") from error
        path = os.fspath(path)
        check_whole(path)
        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=threads or os.cpu_count() or 1))
        with native_output_to_log("LiteRT"):
            try:
                model = CompiledModel.from_file(path, environment=_environment(), options=options)
            except RuntimeError as error:
                raise WeightsError(f"{path} cannot be loaded by LiteRT ({' '.join(str(error).split())}): export it again") from error
            signatures = model.get_signature_list()
            if not {"tokens", "input_pos"} <= set(signatures.get(DECODE, {}).get("inputs", ())):
                raise WeightsError(
                    f"{path} is a .tflite without the language model signature {DECODE} (it has: {', '.join(signatures) or 'none'}): "
                    "give a model.tflite that this project exported"
                )
            shapes = {name: tuple(tensor["shape"]) for name, tensor in model.get_input_tensor_details(DECODE).items()}
            names = [name for name in shapes if name.startswith(CACHE)]
            self._model = model
            # Each is read and written: LiteRT then updates it in place, where it would copy all of it from one buffer to another.
            self._caches = {name: model.create_input_buffer_by_name(DECODE, name) for name in names}
            self._inputs = {
                signature: {name: model.create_input_buffer_by_name(signature, name) for name in ("tokens", "input_pos")}
                for signature in signatures
            }
            self._logits = model.create_output_buffer_by_name(DECODE, "logits")
            for name, buffer in self._caches.items():
                # Slots that were never written are masked, but a NaN in them would not stay masked.
                buffer.write(np.zeros(shapes[name], np.float32))
        self.context_length = int(shapes[names[0]][2])
        self.vocabulary_size = int(model.get_output_tensor_details(DECODE)["logits"]["shape"][-1])
        self.prefill_lengths = sorted(int(name.removeprefix(PREFILL)) for name in signatures if name.startswith(PREFILL))

    def prefill(self, ids: Sequence[int], position: int = 0) -> None:
        """Reads tokens that take the positions from `position` on.

        The longest signature that fits is run as often as it fits; what remains is filled up to the shortest signature that
        holds it, where the context has room for that, and decoded one by one elsewhere.
        """
        done = 0
        while done < len(ids):
            remaining, room = len(ids) - done, self.context_length - position - done
            fitting = [length for length in self.prefill_lengths if length <= remaining]
            holding = [length for length in self.prefill_lengths if remaining < length <= room]
            if fitting:
                length, taken = fitting[-1], fitting[-1]
            elif holding and remaining > 1:
                length, taken = holding[0], remaining
            else:
                self.decode(ids[done], position + done)
                done += 1
                continue
            tokens = list(ids[done : done + taken]) + [0] * (length - taken)
            self._run(prefill_name(length), tokens, position + done, {})
            done += taken

    def decode(self, token: int, position: int) -> np.ndarray:
        """Reads one token at `position`; returns the scores of all words for the next one, float32 [V]."""
        self._run(DECODE, [token], position, {"logits": self._logits})
        return self._logits.read(self.vocabulary_size, np.float32)

    def read(self, ids: Sequence[int], position: int) -> np.ndarray:
        """Reads some tokens, one by one; returns the scores after each of them, float32 [N, V]."""
        return np.stack([self.decode(token, position + index) for index, token in enumerate(ids)])

    def _run(self, signature: str, tokens: Sequence[int], position: int, outputs: dict[str, Any]) -> None:
        if position + len(tokens) > self.context_length:
            raise ValueError(f"position {position} and {len(tokens)} tokens are over the context of {self.context_length}")
        inputs = self._inputs[signature]
        inputs["tokens"].write(np.asarray([tokens], np.int32))
        inputs["input_pos"].write(np.arange(position, position + len(tokens), dtype=np.int32))
        self._model.run_by_name(signature, {**inputs, **self._caches}, {**outputs, **self._caches})


def check_whole(path: str) -> None:
    """Raises WeightsError unless every buffer of a `.tflite` lies inside the file: LiteRT itself crashes on a truncated one."""
    from ai_edge_litert import schema_py_generated as schema

    damaged = WeightsError(f"{path} is not a whole .tflite ({os.path.getsize(path)} bytes): copy or export it again")
    if os.path.getsize(path) < 8:
        raise damaged
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[4:8] != b"TFL3":
            raise damaged
        try:
            model = schema.Model.GetRootAs(content)
            for index in range(model.BuffersLength()):
                buffer = model.Buffers(index)
                table = buffer._tab
                field = table.Offset(4)  # Buffer.data, the first field of the table
                end = table.Vector(field) + table.VectorLen(field) if field else 0
                # The quantizer puts large buffers behind the flatbuffer.
                if max(end, buffer.Offset() + buffer.Size()) > len(content):
                    raise damaged
        except (struct.error, IndexError, ValueError, TypeError) as error:
            raise damaged from error
