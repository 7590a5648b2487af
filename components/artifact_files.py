"""Names of files inside the artifacts, for whoever reads them, with TFX or without."""

# What a training came to, in the folder of a Student.
METRICS_FILE = "metrics.json"
# What an export came to, in the folder of the Exporter's Model.
EXPORT_REPORT = "export.json"
# Its files beside the SavedModel.
FILES_FOLDER = "files"
