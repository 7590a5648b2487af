"""The student as a SavedModel: text in, text out, and the Evaluator's sums. It loads with tensorflow and tensorflow-text alone."""

from collections.abc import Callable

import tensorflow as tf

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.export.decoding import completions
from gemma_tf_distill.export.files import published
from gemma_tf_distill.export.names import EVAL, GENERATE, LOGITS, SAMPLE, SCORE, SERVING, cache_names
from gemma_tf_distill.export.sampling import Choice, most_probable, sampled
from gemma_tf_distill.export.text import stop_ids
from gemma_tf_distill.export.token_sums import log_likelihoods, token_sums
from gemma_tf_distill.export.weight_store import WeightStore
from gemma_tf_distill.gemma.functional import empty_cache, hidden_states, logits, shape_of
from gemma_tf_distill.gemma.model import Gemma


def _graph(*signature: tf.TensorSpec) -> Callable[[Callable], Callable]:
    # Without AutoGraph, which would take most of the tracing time: loops are written as tf.while_loop.
    return tf.function(input_signature=signature, autograph=False)


class ServingModule(tf.Module):
    """What `export_saved_model` saves. The attributes named here are there after loading, too.

    Attributes:
      context_length: int32 [], tokens that prompt and completion may have together.
      stops: int32 [n], ids that end a completion.
    """

    def __init__(
        self,
        gemma: Gemma,
        *,
        context_length: int,
        max_new_tokens: int,
        window: int,
        top_k: int,
        quantization: QuantizationConfig | None = None,
    ):
        """Copies the weights of `gemma`; see `export_saved_model` for the rest."""
        # The graph's tokenizer is a TensorFlow operation that only this package registers.
        import tensorflow_text

        super().__init__()
        self._shape = shape_of(gemma)
        self._weights = WeightStore(gemma, quantization)
        # FastSentencepieceTokenizer builds for this BPE model and returns wrong ids.
        self._tokenizer = tensorflow_text.SentencepieceTokenizer(model=gemma.tokenizer.proto, out_type=tf.int32)
        self._bos_id = gemma.tokenizer.bos_id
        self._stops = stop_ids(gemma.tokenizer)
        self._byte_lengths = tf.Variable(gemma.tokenizer.byte_lengths(), trainable=False)
        self.stops = tf.Variable(self._stops, trainable=False)
        self._max_new_tokens = max_new_tokens
        self._window, self._top_k = window, top_k
        self.context_length = tf.Variable(context_length, trainable=False)

    def _prompt_ids(self, prompt: tf.Tensor) -> tf.RaggedTensor:
        ids = self._tokenizer.tokenize(prompt)
        return tf.concat([tf.fill([tf.shape(prompt)[0], 1], self._bos_id), ids], axis=1)

    @_graph(tf.TensorSpec([None], tf.string, name="prompt"))
    def serve(self, prompt: tf.Tensor) -> dict[str, tf.Tensor]:
        """The signature `serving_default`."""
        # By way of `generate`, so that the graph holds the decoder once.
        return {"text": self.generate(prompt, tf.constant(self._max_new_tokens))["text"]}

    @_graph(tf.TensorSpec([None], tf.string, name="prompt"), tf.TensorSpec([], tf.int32, name="max_new_tokens"))
    def generate(self, prompt: tf.Tensor, max_new_tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        """The signature `generate`."""
        return self._completed(prompt, max_new_tokens, most_probable)

    @_graph(
        tf.TensorSpec([None], tf.string, name="prompt"),
        tf.TensorSpec([], tf.int32, name="max_new_tokens"),
        tf.TensorSpec([], tf.float32, name="temperature"),
        tf.TensorSpec([], tf.int32, name="top_k"),
        tf.TensorSpec([], tf.float32, name="top_p"),
        tf.TensorSpec([], tf.int32, name="seed"),
    )
    def sample(
        self,
        prompt: tf.Tensor,
        max_new_tokens: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        seed: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The signature `sample`."""
        return self._completed(prompt, max_new_tokens, sampled(temperature, top_k, top_p, seed))

    def _completed(self, prompt: tf.Tensor, max_new_tokens: tf.Tensor, choose: Choice) -> dict[str, tf.Tensor]:
        max_new_tokens = tf.clip_by_value(max_new_tokens, 1, self.context_length - 1)
        ids = self._prompt_ids(prompt)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        # <bos> stays, since without it a Gemma is lost, and the end of the prompt.
        first = tf.maximum(lengths - (self.context_length - max_new_tokens - 1), 1)
        positions = tf.ragged.range(lengths)
        kept = tf.ragged.boolean_mask(ids, tf.logical_or(positions == 0, positions >= first[:, tf.newaxis]))
        found = completions(self._shape, self._weights.read(), kept, max_new_tokens, self._stops, choose)
        return {"text": self._tokenizer.detokenize(found), "token_ids": found.to_tensor()}

    @_graph(tf.TensorSpec([None], tf.string, name="text"))
    def score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """The signature `score`."""
        return log_likelihoods(self._shape, self._weights.read(), self._prompt_ids(text)[:, : tf.identity(self.context_length)])

    @_graph(tf.TensorSpec([None], tf.string, name="examples"))
    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The signature `eval`."""
        return token_sums(self._shape, self._weights.read(), examples, tf.identity(self._byte_lengths), self._window, self._top_k)

    @_graph(tf.TensorSpec([None], tf.string, name="prompt"))
    def tokenize(self, prompt: tf.Tensor) -> tf.RaggedTensor:
        """Token ids, `<bos>` first: string [B] to int32 [B, (length)]. Not a signature, but there after loading."""
        return self._prompt_ids(prompt)

    @_graph(tf.TensorSpec([None], tf.int32, name="token_ids"))
    def detokenize(self, token_ids: tf.Tensor) -> tf.Tensor:
        """The text of int32 [N], string []. Not a signature, but there after loading."""
        return self._tokenizer.detokenize(token_ids)

    @_graph()
    def unpack(self) -> None:
        """Makes float32 of quantised weights once and not in every call: four times the memory for them. Not a signature, but there."""
        self._weights.unpack()

    def logits_signature(self) -> tf.types.experimental.ConcreteFunction:
        """The signature `logits`."""
        names = [cache_names(layer) for layer in range(self._shape.num_layers)]
        context_length = int(self.context_length)
        caches = empty_cache(self._shape, 1, context_length)

        def run(
            token_ids: tf.Tensor, position: tf.Tensor, left_padding: tf.Tensor, logits_to_keep: tf.Tensor, **cached: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            length = tf.shape(token_ids)[1]
            fits = tf.debugging.assert_less_equal(
                position + length, context_length, message=f"position and token_ids are over the context of {context_length} tokens"
            )
            with tf.control_dependencies([fits]):
                slots = tf.range(position, position + length)
            cache = tuple((cached[keys], cached[values]) for keys, values in names)
            weights = self._weights.read()
            hidden, cache = hidden_states(self._shape, weights, token_ids, cache, slots=slots, left_padding=left_padding)
            kept = hidden[:, -tf.where(logits_to_keep > 0, tf.minimum(logits_to_keep, length), length) :]
            scores = logits(self._shape, weights, tf.reshape(kept, [-1, self._shape.hidden_dim]))
            found = {name: value for pair, layer in zip(names, cache, strict=True) for name, value in zip(pair, layer, strict=True)}
            return found | {LOGITS: tf.reshape(scores, [tf.shape(kept)[0], tf.shape(kept)[1], self._shape.vocabulary_size])}

        return tf.function(run, autograph=False).get_concrete_function(
            token_ids=tf.TensorSpec([None, None], tf.int32, name="token_ids"),
            position=tf.TensorSpec([], tf.int32, name="position"),
            left_padding=tf.TensorSpec([None], tf.int32, name="left_padding"),
            logits_to_keep=tf.TensorSpec([], tf.int32, name="logits_to_keep"),
            **{
                name: tf.TensorSpec([None, *tensor.shape[1:]], tf.float32, name=name)
                for pair, layer in zip(names, caches, strict=True)
                for name, tensor in zip(pair, layer, strict=True)
            },
        )


def export_saved_model(
    gemma: Gemma,
    path: str,
    *,
    context_length: int,
    max_new_tokens: int,
    window: int,
    top_k: int,
    quantization: QuantizationConfig | None = None,
) -> None:
    """Writes a model as a SavedModel, whole or not at all. It computes in float32.

    Signatures:
      `serving_default`: `prompt` string [B] to `text` string [B], the completions without their prompts. Greedy; a completion ends
        before `<eos>` or `<end_of_turn>`, or after `max_new_tokens`. A prompt may be empty or no UTF-8 (what is not becomes
        U+FFFD). Of a prompt that leaves no room for `max_new_tokens` in the context only the end is read: its last
        `context_length - max_new_tokens - 1` tokens, after `<bos>`.
      `generate`: the same with `max_new_tokens` int32 [] as a second input (clipped to 1 ... context_length - 1), and also
        `token_ids` int32 [B, n], the completions' ids with zeros at the right.
      `sample`: as `generate`, at random: further inputs, all [], are `temperature` float32 (0: greedy), `top_k` int32 (0: all words),
        `top_p` float32 (1: all words) and `seed` int32; see `export.sampling.sampled`.
      `score`: `text` string [B] to `log_likelihood` float32 [B], in nats, and `token_count` int32 [B]: of the text after `<bos>`, as far
        as it fits in the context.
      `logits`: inputs: `token_ids` int32 [B, T]; `position` int32 [], how many tokens are in the cache; `left_padding` int32 [B], how
        many tokens at each row's beginning are padding; `logits_to_keep` int32 [], of how many of the last tokens scores are wanted (0:
        of all); `kv_cache_k_I` and `kv_cache_v_I` float32 [B, kv_heads, slots, head_dim] of every layer I, zeros at first, with
        `context_length` slots, in local layers no more than their window. Outputs: `logits` float32 [B, logits_to_keep, V], and the
        caches with the tokens in them.
      `eval`: `examples` string [B], scored windows, to the sums that `token_sums` describes, float32 [B] or [B, 15] each.

    Args:
      gemma: the model.
      path: the folder to write; what was there is replaced.
      context_length: tokens that prompt and completion may have together.
      max_new_tokens: tokens that `serving_default` adds at the most.
      window: tokens in the windows that `eval` reads.
      top_k: teacher words a token in those windows.
      quantization: with a scheme: its matrices are stored in one byte a weight, with their scales, and multiplied out when a signature
        runs (a process that stays calls `unpack()` of what it loaded, once); what enters the products stays float32. None: all is float32.

    Raises:
      ConfigError: as of `quantized_weights`.
      WeightsError: likewise.
    """
    module = ServingModule(
        gemma, context_length=context_length, max_new_tokens=max_new_tokens, window=window, top_k=top_k, quantization=quantization
    )
    signatures = {
        SERVING: module.serve,
        GENERATE: module.generate,
        SAMPLE: module.sample,
        SCORE: module.score,
        LOGITS: module.logits_signature(),
        EVAL: module.evaluate,
    }
    with published(path) as beside:
        tf.saved_model.save(module, beside, signatures=signatures)
