"""A digest of the code that a component runs, because TFX's cache does not look at it.

TFX takes a cached result when a component's inputs and parameters are the same, also if its code has changed since. Each component of
this project therefore takes `source_digest(__name__)` as a parameter.
"""

import ast
import hashlib
import importlib.util
import pathlib
from collections.abc import Iterator

OWN_PACKAGES = ("gemma_tf_distill", "components", "tfx_pipeline")


def source_digest(module_name: str) -> str:
    """sha256 over the source of a module and of all modules of ours that it imports, directly or not.

    Imports are found in the source, not by importing: those inside functions count, and so do the `__init__` files of packages.
    Modules that are named in strings only are not found.

    Args:
      module_name: dotted name of a module of `gemma_tf_distill`, `components` or `tfx_pipeline`.

    Returns:
      64 hexadecimal digits, the same wherever the code is installed.

    Raises:
      ValueError: if there is no such module in these packages.
    """
    if _file_of(module_name) is None:
        raise ValueError(f"{module_name!r} is no module of {', '.join(OWN_PACKAGES)}")
    digest = hashlib.sha256()
    for name, path in sorted(_closure(module_name).items()):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _closure(module_name: str) -> dict[str, pathlib.Path]:
    found: dict[str, pathlib.Path] = {}
    waiting = [module_name]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if name in found or path is None:
            continue
        found[name] = path
        # Importing a module runs the packages around it.
        waiting.append(name.rpartition(".")[0])
        waiting.extend(_imports(name, path))
    return found


def _file_of(name: str) -> pathlib.Path | None:
    """The source file of a module of ours, none for any other name."""
    package, *parts = name.split(".")
    # find_spec of a name without dots imports nothing.
    spec = importlib.util.find_spec(package) if package in OWN_PACKAGES else None
    if spec is None or not spec.submodule_search_locations:
        return None
    for folder in spec.submodule_search_locations:
        stem = pathlib.Path(folder, *parts)
        for path in (stem / "__init__.py", stem.with_name(stem.name + ".py")):
            if path.is_file():
                return path
    return None


def _imports(name: str, path: pathlib.Path) -> Iterator[str]:
    """Names that a module imports; some may be functions or classes rather than modules."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
