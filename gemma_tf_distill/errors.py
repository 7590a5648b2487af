"""Errors that a person can act on: one clear line, no traceback, exit code 2."""

import errno


class UserError(Exception):
    """Something that the user gave is wrong; the message says what, the value received, and what to do.

    The command line prints the message as one line and exits with code 2.
    """


class ConfigError(UserError):
    """A config has an unknown key, a value of the wrong type or out of range, or values that contradict each other."""


class CorpusError(UserError):
    """A corpus, or a file of prompts, is missing, unreadable, not text, empty, or further from another than the config allows."""


class TargetsError(UserError):
    """Teacher targets that are damaged, or not those that were asked for."""


class WeightsError(UserError):
    """Model weights or a tokenizer are missing, out of reach, corrupted, or of another architecture."""


class MissingExtraError(UserError):
    """An optional package is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str):
        """Makes the message of what is missing, what installs it, and what needs it."""
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'gemma-tf-distill[{extra}]'")
        self._arguments = (package, extra, purpose)

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Lets the error cross between processes; by default it would be built of its message alone."""
        return type(self), self._arguments


def refused_by_system(error: BaseException) -> UserError | None:
    """The UserError for a path that the operating system refuses: no permission, read-only, too long a name, a full disk; else none."""
    refusals = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOSPC, errno.ELOOP)
    if isinstance(error, OSError) and error.errno in refusals and error.filename:
        name = str(error.filename)
        shown = name if len(name) <= 200 else f"{name[:200]}…"
        return UserError(f"{shown} can't be used: {error.strerror}; choose another path, or change this one's rights")
    return None
