"""Looks at what a config names before anything is computed, so that a mistake costs seconds."""

from gemma_tf_distill.config import Config
from gemma_tf_distill.data.check import check_corpus
from gemma_tf_distill.data.serving_prompts import read_serving_prompts
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.export.packages import check_export_packages, check_package
from gemma_tf_distill.monitoring.profiler_server import check_profiler_port
from tfx_pipeline.infra_validation import check_infra_validation


def check_inputs(config: Config) -> None:
    """Checks the installed packages, the teacher, the student that is to be made of it, the corpus, and Docker where it is asked for.

    Raises:
      MissingExtraError: if TFX is missing, or what the export needs.
      WeightsError: if the teacher, or the preset that the student's sizes come from, is unknown, out of reach or damaged.
      ConfigError: if the student does not fit the teacher, the quantisation the student, or the student a `.tflite`, for flags that XLA
        refuses, a profiler's port that is taken, and where TensorFlow Serving is asked for and can't be started.
      CorpusError: if the corpus, or the file of serving prompts, can't be read or has nothing in it.
    """
    check_package("tfx", "tfx", "gemma-distill run")
    check_export_packages(config.export, config.quantization)
    # First, since it needs no TensorFlow: most mistakes are told within a second or two.
    check_infra_validation(config.infra_validation)
    check_profiler_port(config.training.profiler_port)
    check_corpus(config.corpus)
    if config.data_validation.serving_prompts is not None:
        read_serving_prompts(config.data_validation.serving_prompts, config.corpus.field, most=1)
    _check_models(config)
    _check_compiler(config)


def _check_compiler(config: Config) -> None:
    from gemma_tf_distill.xla.optimizer import check_flags

    check_flags(config.xla)


def _check_models(config: Config) -> None:
    from gemma_tf_distill.export.checks import check_sizes
    from gemma_tf_distill.gemma.presets import preset_architecture
    from gemma_tf_distill.gemma.student import check_layers, student_architecture
    from gemma_tf_distill.gemma.teacher import describe_source, load_tokenizer
    from gemma_tf_distill.gemma.vocabulary import trim_vocabulary
    from gemma_tf_distill.gemma.width_cut import check_cut

    teacher = describe_source(config.teacher.source)
    student = config.student
    words = teacher["vocabulary_size"] if isinstance(student.vocabulary, str) else min(teacher["vocabulary_size"], student.vocabulary)
    if config.distillation.top_k > words:
        raise ConfigError(f"distillation.top_k is {config.distillation.top_k}, but there are {words} words: choose at most as many")
    if student.layers is not None:
        check_layers(student.layers, teacher["num_layers"])
    if student.cut is not None:
        check_cut(student.cut, teacher)
    if student.preset is not None:
        preset_architecture(student.preset, "student.preset")
    sizes = student_architecture(student, teacher)
    # Which words a corpus uses is not known yet: its student is checked without them here, and as it is before it is converted.
    known = 0 if student.vocabulary == "corpus" else words
    check_sizes(config.export, config.quantization, {**sizes, "vocabulary_size": known})
    tokenizer = load_tokenizer(config.teacher.source)
    if isinstance(student.vocabulary, int):
        # Of no counts at all, the smallest vocabulary that there can be.
        trim_vocabulary(tokenizer, {}, student.vocabulary)
