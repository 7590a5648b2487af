"""Files inside the artifacts: their names, and how JSON is read, with TFX or without."""

import json
from typing import Any

import tensorflow as tf

# What a training came to, in the folder of a Student.
METRICS_FILE = "metrics.json"
# What an export came to, in the folder of the Exporter's Model.
EXPORT_REPORT = "export.json"
# Its files beside the SavedModel.
FILES_FOLDER = "files"


def read_json(path: str) -> Any:
    """The content of a JSON file, local or in a bucket."""
    with tf.io.gfile.GFile(path) as file:
        return json.loads(file.read())
