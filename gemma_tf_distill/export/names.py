"""What things are called in what leaves the pipeline: files, signatures, and the caches among their inputs and outputs."""

TOKENIZER_FILE = "tokenizer.model"
TFLITE_FILE = "model.tflite"
LITERT_LM_FILE = "model.litertlm"
SAVED_MODEL_FOLDER = "saved_model"
HUGGING_FACE_FOLDER = "hugging_face"
MANIFEST_FILE = "manifest.json"

# Signatures of a SavedModel.
SERVING = "serving_default"
GENERATE = "generate"
SAMPLE = "sample"
SCORE = "score"
LOGITS = "logits"
EVAL = "eval"

# Signatures of a `.tflite`.
DECODE = "decode"
PREFILL = "prefill_"

CACHE = "kv_cache_"

# A SavedModel reads prompts in pieces of at most this many tokens: attention scores take [heads, piece, context].
PREFILL_PIECE = 512


def prefill_name(length: int) -> str:
    """Name of the signature that reads `length` tokens at once."""
    return f"{PREFILL}{length}"


def cache_names(layer: int) -> tuple[str, str]:
    """Names of a layer's keys and values among the inputs and outputs of a signature, as LiteRT-LM reads them."""
    return f"{CACHE}k_{layer}", f"{CACHE}v_{layer}"
