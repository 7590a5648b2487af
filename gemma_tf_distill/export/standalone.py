"""A model exported as it is, without a pipeline: `gemma-distill export`."""

import os
import time

from gemma_tf_distill.config import Config
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.export.bundle import export_files
from gemma_tf_distill.export.checks import check_sizes
from gemma_tf_distill.export.files import published
from gemma_tf_distill.export.manifest import read_manifest, write_documents
from gemma_tf_distill.export.names import MANIFEST_FILE
from gemma_tf_distill.export.packages import check_export_packages
from gemma_tf_distill.export.prompt_templates import default_prompt_template
from gemma_tf_distill.gemma.teacher import describe_source, load_teacher
from gemma_tf_distill.quantization.apply import fake_quantized


def export_model(config: Config, folder: str) -> None:
    """Writes `teacher.source` itself in every format that `export` asks for, as a version's folder; whole or not at all.

    With a scheme its weights are rounded to it, without training.

    Args:
      config: its sections `teacher`, `export` and `quantization` count.
      folder: a folder that is not there yet, or an earlier export (no pushed version), which is replaced.

    Raises:
      ConfigError: if the folder holds something else, and as of `export_files`.
      WeightsError: if the model can't be loaded, and as of `export_files`.
      MissingExtraError: as of `export_files`.
    """
    if os.path.exists(folder) and not _is_replaceable(folder):
        raise ConfigError(f"{folder} is there already and is no export: name a folder that is not there yet")
    source = config.teacher.source
    check_export_packages(config.export, config.quantization)
    check_sizes(config.export, config.quantization, describe_source(source))
    model = load_teacher(source)
    quantization = config.quantization if config.quantization.scheme else None
    if quantization is not None:
        model = fake_quantized(model, quantization)
    with published(folder) as beside:
        export_files(
            model,
            beside,
            config.export,
            prompt_template=config.export.prompt_template or default_prompt_template(source),
            window=config.corpus.window,
            top_k=config.distillation.top_k,
            quantization=quantization,
        )
        parents = {"teacher": source, "student": {"uri": source}}
        write_documents(beside, version=int(time.time()), config=config.to_json(), parents=parents)


def _is_replaceable(folder: str) -> bool:
    """Whether a folder is empty or an earlier export; a pushed version, which is made of a pipeline's model, is neither."""
    if os.path.exists(os.path.join(folder, MANIFEST_FILE)):
        return "model" not in read_manifest(folder)["parents"]
    return os.path.isdir(folder) and not os.listdir(folder)
