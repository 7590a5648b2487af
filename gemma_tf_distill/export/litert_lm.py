"""One file for LiteRT-LM: a `.tflite`, its tokenizer, where texts begin and end, and how a conversation is written."""

import os
import tempfile

import tensorflow as tf

from gemma_tf_distill.errors import MissingExtraError
from gemma_tf_distill.export.files import published
from gemma_tf_distill.export.prompt_templates import PROMPT_TEMPLATES
from gemma_tf_distill.export.text import stop_ids
from gemma_tf_distill.gemma.tokenizer import Tokenizer


def export_litert_lm(tflite: str, tokenizer: Tokenizer, path: str, *, context_length: int, prompt_template: str = "plain") -> None:
    """Writes a `.litertlm`, whole or not at all.

    Args:
      tflite: a file of `export_litert`, which is copied into it as it is.
      tokenizer: the model's.
      path: the file.
      context_length: tokens that the `.tflite`'s caches hold.
      prompt_template: how LiteRT-LM's conversations are written, a key of `PROMPT_TEMPLATES`; sessions without a template complete a
        text in any case.

    Raises:
      MissingExtraError: if litert-lm-builder is not installed.
    """
    try:
        from litert_lm_builder import LitertLmFileBuilder, TfLiteModelType
        from litert_lm_builder.runtime.proto import llm_metadata_pb2
    except ImportError as error:
        raise MissingExtraError("litert-lm-builder", "litert", "writing a .litertlm") from error

    metadata = llm_metadata_pb2.LlmMetadata()
    metadata.start_token.token_ids.ids.append(tokenizer.bos_id)
    for stop in stop_ids(tokenizer):
        metadata.stop_tokens.add().token_ids.ids.append(stop)
    metadata.max_num_tokens = context_length
    metadata.llm_model_type.gemma3.SetInParent()
    metadata.jinja_prompt_template = PROMPT_TEMPLATES[prompt_template]
    with tempfile.TemporaryDirectory() as folder:
        parts = {"metadata": metadata.SerializeToString(), "tokenizer": tokenizer.proto}
        paths = {name: os.path.join(folder, name) for name in (*parts, "bundle")}
        for name, content in parts.items():
            with open(paths[name], "wb") as file:
                file.write(content)
        builder = LitertLmFileBuilder()
        builder.add_llm_metadata(paths["metadata"], supports_thinking=False, supports_function_calling=False)
        builder.add_sentencepiece_tokenizer(paths["tokenizer"])
        builder.add_tflite_model(tflite, TfLiteModelType.PREFILL_DECODE)
        with open(paths["bundle"], "wb") as file:
            builder.build(file)
        with published(path) as beside:
            tf.io.gfile.copy(paths["bundle"], beside)
