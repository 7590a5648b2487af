"""Pushes a blessed model: whole or not at all, as a version that is higher than every one before it."""

import os
import re
import time
import uuid
from typing import Any

import tensorflow as tf
from absl import logging
from tfx import types
from tfx.components.pusher import executor as tfx_pusher
from tfx.types import artifact_utils

from components.artifact_files import FILES_FOLDER
from components.pusher.manifest import describe_version
from gemma_tf_distill.export.files import copy_tree
from gemma_tf_distill.export.names import MANIFEST_FILE, SAVED_MODEL_FOLDER, TOKENIZER_FILE

_PARTIAL = re.compile(r"\.\d+\.[0-9a-f]{32}\.partial/?")


class Executor(tfx_pusher.Executor):
    """TFX's Pusher, with our own layout of a version and a manifest."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes `<push_directory>/<version>/` if the model is blessed: `saved_model/`, `tokenizer.model`, the other exported
        files, the model card `README.md` with its `NOTICE`, and `manifest.json`.

        The version is the Unix time in seconds. On a file system the folder gets its name when it is complete; in a bucket,
        where folders can't be renamed at once, `manifest.json` comes last and makes the version valid. The `pushed_model`
        artifact holds a copy of the manifest and is marked as TFX's own Pusher does (`pushed`, `pushed_destination`,
        `pushed_version`); `pushed` is 0 and nothing is written for a model that is not blessed.

        Args:
          input_dict: `model`, `model_blessing`, `model_evaluation`, `student`, `tokenizer`, `examples`, one artifact each;
            `infra_blessing`, where TensorFlow Serving was asked, whose verdict must be good, too.
          output_dict: `pushed_model`.
          exec_properties: `push_directory`, `config` (JSON) and `source_digest`.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        inputs = {name: artifact_utils.get_single_instance(artifacts) for name, artifacts in input_dict.items() if artifacts}
        directory = exec_properties["push_directory"].rstrip("/")
        tf.io.gfile.makedirs(directory)
        version = _next_version(directory)
        final = os.path.join(directory, str(version))
        in_bucket = "://" in directory
        folder = final if in_bucket else os.path.join(directory, f".{version}.{uuid.uuid4().hex}.partial")
        try:
            copy_tree(self.GetModelPath(input_dict), os.path.join(folder, SAVED_MODEL_FOLDER))
            copy_tree(os.path.join(inputs["model"].uri, FILES_FOLDER), folder)
            tf.io.gfile.copy(os.path.join(inputs["tokenizer"].uri, TOKENIZER_FILE), os.path.join(folder, TOKENIZER_FILE), True)
            describe_version(folder, version, exec_properties["config"], inputs)
            if not in_bucket:
                tf.io.gfile.rename(folder, final)
        finally:
            if folder != final and tf.io.gfile.exists(folder):
                tf.io.gfile.rmtree(folder)
        tf.io.gfile.makedirs(pushed.uri)
        tf.io.gfile.copy(os.path.join(final, MANIFEST_FILE), os.path.join(pushed.uri, MANIFEST_FILE), overwrite=True)
        self._MarkPushed(pushed, pushed_destination=final, pushed_version=str(version))
        logging.info("Model pushed to %s.", final)


def _next_version(directory: str) -> int:
    """The Unix time in seconds, or more where a version of that second exists; also removes what a killed push left."""
    versions = [0]
    for name in tf.io.gfile.listdir(directory):
        if _PARTIAL.fullmatch(name):
            tf.io.gfile.rmtree(os.path.join(directory, name))
        elif name.rstrip("/").isdecimal():
            versions.append(int(name.rstrip("/")))
    return max(int(time.time()), max(versions) + 1)
