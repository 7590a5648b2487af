"""Questions put to a Python process of their own.

TensorFlow takes seconds to import, and on a machine that it does not fit it dies rather than raises.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from typing import Any

_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a probe ended: its last line, or why there is none."""

    output: str = ""
    error: str = ""


def run(code: str) -> Outcome:
    """Runs Python code in a new process with this interpreter and waits for it."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(error=f"no answer in {_SECONDS} s")
    if done.returncode < 0:
        return Outcome(error=f"killed by {signal.Signals(-done.returncode).name}")
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or [f"exit code {done.returncode}, no output"]
    return Outcome(error=lines[-1]) if done.returncode else Outcome(output=lines[-1])


def tensorflow_view() -> Outcome:
    """What `print_tensorflow_view` prints, from a new process."""
    return run(f"from {__name__} import print_tensorflow_view; print_tensorflow_view()")


def print_tensorflow_view() -> None:
    """Prints what TensorFlow, KerasHub and this project's own loading code say, as one JSON object.

    `devices`: names; `presets`: name of a Gemma 3 text preset to its handle on Kaggle; `weights_cache`: the folder for the weights of
    the demo extra, or `weights_cache_error`, why there is none.
    """
    import keras_hub
    import tensorflow as tf

    from gemma_tf_distill.errors import WeightsError
    from gemma_tf_distill.gemma.package import cache_folder
    from gemma_tf_distill.gemma.presets import text_presets

    registry = keras_hub.models.Gemma3Backbone.presets
    view: dict[str, Any] = {
        "devices": [f"{device.device_type} {device.name.rpartition(':')[2]}" for device in tf.config.list_physical_devices()],
        "presets": {name: registry[name]["kaggle_handle"] for name in text_presets()},
    }
    try:
        view["weights_cache"] = str(cache_folder())
    except WeightsError as error:
        view["weights_cache_error"] = str(error)
    print(json.dumps(view))
