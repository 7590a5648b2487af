"""Runs a `.litertlm` in LiteRT-LM. Imports neither TensorFlow nor Keras, so that it starts at once."""

import codecs
import io
import os
import queue
import struct
from collections.abc import Iterator
from typing import Any

from gemma_tf_distill.errors import MissingExtraError, WeightsError
from gemma_tf_distill.export.native_output import native_output_to_log


class LiteRtLmModel:
    """A loaded `.litertlm`; every completion is a session of its own.

    Attributes:
      context_length: tokens that its caches hold.
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        """Loads a file.

        Args:
          path: a local file of `export_litert_lm`, or another's.
          threads: threads that the CPU may use; none: as many as there are processors.

        Raises:
          MissingExtraError: if litert-lm is not installed.
          WeightsError: if there is no such file, it is not a `.litertlm`, or is damaged.
        """
        try:
            import litert_lm
            from litert_lm_builder import litertlm_core, litertlm_peek
        except ImportError as error:
            raise MissingExtraError("litert-lm", "litert", "running a .litertlm") from error
        path = os.fspath(path)
        if not os.path.isfile(path):
            raise WeightsError(f"no file at {path!r}: give a .litertlm")
        if not _is_whole(path, litertlm_core, litertlm_peek):
            raise WeightsError(f"{path} is not a whole .litertlm ({os.path.getsize(path)} bytes): copy or export it again")
        litert_lm.set_min_log_severity(litert_lm.LogSeverity.SILENT)
        with native_output_to_log("LiteRT-LM"):
            try:
                with litert_lm.ModelInfo(path) as info:
                    self.context_length = int(info.max_context_tokens)
                self._engine = litert_lm.Engine(
                    path,
                    litert_lm.Backend.CPU(thread_count=threads or os.cpu_count() or 1),
                    max_num_tokens=self.context_length,
                    # Weights that were repacked for this processor would be written beside the file.
                    cache_dir=":nocache",
                )
            except (RuntimeError, ValueError) as error:
                raise WeightsError(f"{path} cannot be loaded by LiteRT-LM ({' '.join(str(error).split())}): export it again") from error
        # Top-p among the best word alone is the runtime's only greedy sampler.
        self._greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, `<bos>` first."""
        return [self._engine.bos_token_id, *(self._engine.tokenize(prompt) if prompt else ())]

    def complete(self, prompt: str, max_new_tokens: int) -> Iterator[str]:
        """The greedy completion of a prompt, in pieces as they are made.

        Args:
          prompt: any text, also none.
          max_new_tokens: at the most; prompt and completion must fit in the context together.
        """
        session = self._engine.create_session(apply_prompt_template=False, sampler_config=self._greedy, max_output_tokens=max_new_tokens)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            session.run_prefill([prompt])
            for chunk in _decode(session):
                if piece := decoder.decode(chunk):
                    yield piece
            if piece := decoder.decode(b"", final=True):
                yield piece
        finally:
            session.close()


def _decode(session: Any) -> Iterator[bytes]:
    """The bytes of a completion as they are made.

    LiteRT-LM's own `run_decode_async` (0.18.1) decodes each piece alone: of one that ends within a character it loses the whole text, and
    where that is the last one it waits for ever.
    """
    from litert_lm._ffi import STREAM_CALLBACK_TYPE

    library, pieces = session._lib, queue.SimpleQueue[tuple[bytes, str, bool]]()

    @STREAM_CALLBACK_TYPE
    def on_chunk(_: object, chunk: Any) -> None:
        error = library.litert_lm_stream_chunk_get_error(chunk) or b""
        text = b"" if error else library.litert_lm_stream_chunk_get_text(chunk) or b""
        pieces.put((text, error.decode(errors="replace"), bool(error) or bool(library.litert_lm_stream_chunk_is_final(chunk))))

    # Kept where the runtime's own is, so that it lives as long as the session.
    session._current_callback = on_chunk
    if library.litert_lm_session_run_decode_async(session._ptr, on_chunk, None):
        raise WeightsError("LiteRT-LM could not begin to decode: export the model again")
    while True:
        text, error, last = pieces.get()
        if error and "Max number of tokens reached" not in error:
            raise WeightsError(f"LiteRT-LM could not decode ({error}): export the model again")
        yield text
        if last:
            return


def measure_litert_lm(path: str, context_length: int, prefill_tokens: int, decode_tokens: int) -> tuple[float, float]:
    """Tokens a second of a prompt and of a completion, by LiteRT-LM's own benchmark, of a file that `LiteRtLmModel` has loaded once."""
    import litert_lm

    with native_output_to_log("LiteRT-LM"):
        info = litert_lm.Benchmark(
            path,
            litert_lm.Backend.CPU(thread_count=os.cpu_count() or 1),
            prefill_tokens=prefill_tokens,
            decode_tokens=decode_tokens,
            max_num_tokens=context_length,
            cache_dir=":nocache",
        ).run()
    return info.last_prefill_tokens_per_second, info.last_decode_tokens_per_second


def tflite_section(path: str) -> bytes:
    """The `.tflite` inside a `.litertlm` of this project."""
    from litert_lm_builder import litertlm_header_schema_py_generated as schema
    from litert_lm_builder import litertlm_peek

    sections = litertlm_peek.read_litertlm_header(path, io.StringIO()).SectionMetadata()
    for section in map(sections.Objects, range(sections.ObjectsLength())):
        if section.DataType() == schema.AnySectionDataType.TFLiteModel:
            with open(path, "rb") as file:
                file.seek(section.BeginOffset())
                return file.read(section.EndOffset() - section.BeginOffset())
    raise WeightsError(f"{path} holds no .tflite: export it again")


def _is_whole(path: str, core: Any, peek: Any) -> bool:
    """Whether header and sections of a `.litertlm` lie inside the file, which LiteRT-LM itself does not ask."""
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            file.seek(core.HEADER_END_LOCATION_BYTE_OFFSET)
            (header_end,) = struct.unpack("<Q", file.read(8))
        if header_end > size:
            return False
        sections = peek.read_litertlm_header(path, io.StringIO()).SectionMetadata()
        return all(sections.Objects(index).EndOffset() <= size for index in range(sections.ObjectsLength()))
    except (struct.error, IndexError, ValueError, TypeError, AttributeError):
        return False
