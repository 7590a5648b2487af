"""Exit codes of `gemma-distill`."""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_NOT_BLESSED = 3
EXIT_INTERRUPTED = 130
# As a shell tells that SIGPIPE ended a command.
EXIT_BROKEN_PIPE = 141
