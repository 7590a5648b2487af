"""Errors of the user's making that come back from Beam's workers."""

import contextlib
import re
from collections.abc import Iterator

from gemma_tf_distill import errors

# Runners hand on an error as it was, with the step's name added, or as the text of its traceback.
_STEP = re.compile(r" ?\[while running .*", re.DOTALL)
_IN_TRACEBACK = re.compile(r"^gemma_tf_distill\.errors\.(\w+): (.+?)(?: \[while running .*)?$", re.MULTILINE)
_TYPES = {cls.__name__: cls for cls in (errors.ConfigError, errors.CorpusError, errors.TargetsError, errors.WeightsError)}


@contextlib.contextmanager
def user_errors_of_workers() -> Iterator[None]:
    """Lets a UserError that a Beam worker raised come out as it was raised there: its own type and its one line.

    Raises:
      UserError: what the worker raised, whatever the runner made of it.
    """
    try:
        yield
    except errors.UserError as error:
        raise _rebuilt(type(error).__name__, _STEP.sub("", str(error))) from error
    # Every runner has exception types of its own; what is not a user's error goes on unchanged.
    except Exception as error:
        match = _IN_TRACEBACK.search(str(error))
        if match is None:
            raise
        raise _rebuilt(match[1], match[2]) from error


def _rebuilt(type_name: str, message: str) -> errors.UserError:
    return _TYPES.get(type_name, errors.UserError)(message)
