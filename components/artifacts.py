"""Artifact types of the pipeline.

Vertex imports a type by its name, which must match `^[a-z][a-z0-9-_]{2,20}[.][A-Z]`. The types declare no properties: figures about an
artifact are custom properties, which need no declaration.
"""

from tfx import v1 as tfx


class Tokenizer(tfx.dsl.Artifact):
    """The student's vocabulary: a folder of `gemma_tf_distill.gemma.vocabulary.Vocabulary.save`."""

    TYPE_NAME = "components.Tokenizer"


class Student(tfx.dsl.Artifact):
    """A trained student: `student/` (a folder of `Gemma.save`), `control/` if one was trained, and `metrics.json`."""

    TYPE_NAME = "components.Student"
