"""Finds the docstrings of Python files. A program of its own, on the standard library alone.

Parsing is what reading docstrings costs. As a program that imports nothing heavy it starts in a few hundredths of a second, so that one
can run on every core, and warnings about the parsed files (invalid escapes, say) stay in it. See `docstrings.read_docstrings`.
"""

import ast
import gc
import pickle
import sys
import warnings

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Statements that hold statements: nothing below an expression has a docstring, and expressions are most of a tree.
_HOLDERS = frozenset(
    (
        *_DOCUMENTED,
        ast.If,
        ast.For,
        ast.AsyncFor,
        ast.While,
        ast.With,
        ast.AsyncWith,
        ast.Try,
        ast.TryStar,
        ast.ExceptHandler,
        ast.Match,
        ast.match_case,
    )
)
_BODIES = ("body", "handlers", "orelse", "finalbody", "cases")


def docstrings_of(source: bytes) -> list[str]:
    """Docstrings of a Python file's module, classes and functions, in the file's order, as `ast.get_docstring` cleans them.

    A file that does not parse has none. A docstring that UTF-8 cannot write (it escapes a lone surrogate) is left out.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found: list[str] = []
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node)
            if text and _is_utf8(text):
                found.append(text)
        for name in reversed(_BODIES):
            stack.extend(child for child in reversed(getattr(node, name, ())) if type(child) in _HOLDERS)
    return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def main() -> None:
    """Reads a pickled list of paths from standard input; writes a pickled list of docstrings for each to standard output."""
    warnings.simplefilter("ignore")
    # Trees hold no cycles; walking them over and over in search of some doubled the time.
    gc.disable()
    for path in pickle.load(sys.stdin.buffer):
        try:
            with open(path, "rb") as file:
                source = file.read()
        except OSError:
            source = b""
        pickle.dump(docstrings_of(source), sys.stdout.buffer)


if __name__ == "__main__":
    main()
