"""Runs that stop on the way, so that what follows can be done on another machine. Neither TensorFlow nor TFX is imported here."""

from collections.abc import Sequence

from gemma_tf_distill.config import Config
from gemma_tf_distill.errors import ConfigError

# The components after which a run may stop, in their order.
STOPS = ("TeacherScorer", "Distiller", "Exporter")
# For each component, its outputs that are of use elsewhere, by the names that a person is told.
FOLDERS = {
    "CorpusGen": {"tokenizer": "tokenizer"},
    "TeacherScorer": {"examples": "scored_examples"},
    "Distiller": {"student": "student"},
    "Quantizer": {"quantized student": "quantized_student"},
    "Exporter": {"model": "model"},
}


def check_runner(config: Config, until: str | None) -> None:
    """Raises ConfigError where the config's strategy needs another process than a pipeline's for its training.

    A pipeline is one process, with the TensorFlow that TFX works with, which drives no TPU.
    """
    name = config.strategy.name
    if name in ("multi_worker", "tpu") and until != STOPS[0]:
        where = "is one process on every host" if name == "multi_worker" else "needs tensorflow-tpu, which has no TFX beside it"
        raise ConfigError(
            f"strategy.name is {name}, which {where}, and gemma-distill run is one process with TFX: run --until {STOPS[0]} here, and "
            "gemma-distill workers on what that makes"
        )


def nodes_until(nodes: Sequence[str], until: str) -> list[str]:
    """The nodes up to and with `until`, of all in their order."""
    return list(nodes[: nodes.index(until) + 1])
