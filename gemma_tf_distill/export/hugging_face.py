"""The student as a Hugging Face folder, for transformers, vLLM and llama.cpp's converter."""

import json
import os
from typing import Any

import keras_hub

from gemma_tf_distill.errors import MissingExtraError, WeightsError
from gemma_tf_distill.export.files import published
from gemma_tf_distill.export.prompt_templates import PROMPT_TEMPLATES
from gemma_tf_distill.export.text import stop_ids
from gemma_tf_distill.gemma.model import Gemma

# Gemma Team 2025, "Gemma 3 Technical Report", section 2: 128K tokens, reached by scaling the global layers' RoPE, but 32K for the 1B.
_CONTEXT, _SCALED_CONTEXT = 32_768, 131_072


def export_hugging_face(gemma: Gemma, path: str, *, prompt_template: str = "plain") -> None:
    """Writes a folder of KerasHub's exporter, whole or not at all: float32 safetensors, `tokenizer.model` and configs.

    What that exporter (KerasHub 0.32) leaves out or fixes is set here: ids of the student's own vocabulary, tied embeddings, the
    context's length, RoPE also in the words of readers before transformers 5, and the chat template.

    Args:
      gemma: the model; weights that lie on a lattice are written as the lattice's numbers.
      path: the folder.
      prompt_template: a key of `PROMPT_TEMPLATES`; `plain` writes no chat template, since the model was taught no turns.

    Raises:
      MissingExtraError: if safetensors is not installed.
      WeightsError: for a model that transformers' Gemma 3 can't compute: without query and key norms or post norms.
    """
    try:
        import safetensors  # noqa: F401  KerasHub's exporter needs it
    except ImportError as error:
        raise MissingExtraError("safetensors", "transformers", "writing a Hugging Face folder") from error
    config = gemma.config
    for key in ("use_query_key_norm", "use_post_ffw_norm", "use_post_attention_norm"):
        if not config[key]:
            raise WeightsError(f"this model has {key}={config[key]!r}, which transformers' Gemma 3 has not: leave hugging_face out")
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer=gemma.tokenizer.keras_hub())
    with published(path) as folder:
        keras_hub.models.Gemma3CausalLM(backbone=gemma.backbone, preprocessor=preprocessor).export_to_transformers(folder)
        tokenizer = gemma.tokenizer
        scaling = config["global_rope_scaling_factor"]
        ids = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id, "eos_token_id": list(stop_ids(tokenizer))}
        _update(
            os.path.join(folder, "config.json"),
            **ids,
            tie_word_embeddings=True,
            max_position_embeddings=_CONTEXT if scaling == 1 else _SCALED_CONTEXT,
            rope_local_base_freq=10_000.0,
            rope_scaling=None if scaling == 1 else {"rope_type": "linear", "factor": scaling},
            attn_logit_softcapping=config["attention_logit_soft_cap"],
            final_logit_softcapping=config["final_logit_soft_cap"],
        )
        _update(os.path.join(folder, "generation_config.json"), **ids)
        if prompt_template != "plain":
            # transformers adds no <bos> to what a template wrote.
            template = "{{ bos_token }}" + PROMPT_TEMPLATES[prompt_template]
            _update(os.path.join(folder, "tokenizer_config.json"), chat_template=template)
        # safetensors lets nobody else read what it wrote.
        os.chmod(os.path.join(folder, "model.safetensors"), 0o644)


def _update(path: str, **values: Any) -> None:
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content | values, file, indent=2)
