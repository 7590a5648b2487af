"""KerasHub's layers used as they are, but for one method at a time."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def replaced(layer: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """In this context `layer`'s method is another one; contexts may be nested, and are to be entered by one thread at a time."""
    nested, former = name in vars(layer), getattr(layer, name)
    setattr(layer, name, method)
    try:
        yield
    finally:
        if nested:
            setattr(layer, name, former)
        else:
            delattr(layer, name)
