"""The pipeline's own TFX components, one folder each.

Artifact types are found here by their TYPE_NAME (`components.Tokenizer`), as Vertex wants it, and loaded on first use: importing this
package imports neither TFX nor TensorFlow.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("Student", "Tokenizer"):
        from components import artifacts

        return getattr(artifacts, name)
    raise AttributeError(f"module 'components' has no attribute {name!r}")
