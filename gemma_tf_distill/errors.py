"""Errors that a person can act on: one clear line, no traceback, exit code 2."""


class UserError(Exception):
    """Something that the user gave is wrong; the message says what, the value received, and what to do.

    The command line prints the message as one line and exits with code 2.
    """


class ConfigError(UserError):
    """A config has an unknown key, a value of the wrong type or out of range, or values that contradict each other."""


class CorpusError(UserError):
    """A corpus is missing, unreadable, not text, or empty."""


class WeightsError(UserError):
    """Model weights or a tokenizer are missing, out of reach, corrupted, or of another architecture."""


class MissingExtraError(UserError):
    """An optional package is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str):
        """Makes the message of what is missing, what installs it, and what needs it."""
        # All three are the arguments, so that the error can cross from a Beam worker's process by pickling.
        super().__init__(package, extra, purpose)

    def __str__(self) -> str:
        package, extra, purpose = self.args
        return f"{purpose} needs {package}, which is not installed: pip install 'gemma-tf-distill[{extra}]'"
