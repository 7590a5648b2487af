#!/usr/bin/env bash
# Runs uv with the given arguments: the machine's own, or else one that pip puts into .tools/ (root or not, and also where
# PEP 668 closes the system's Python to pip, since --target leaves that Python alone).
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.tools
# Asked to run, not only looked for: pyenv leaves shims behind that run nothing.
if uv --version >/dev/null 2>&1; then exec uv "$@"; fi
if ! "$tools/bin/uv" --version >/dev/null 2>&1; then
  if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "setup: neither uv nor pip for python3 is here: install one of them (Debian and Ubuntu: apt-get install python3-pip)" >&2
    exit 2
  fi
  echo "setup: installing uv into .tools" >&2
  rm -rf "$tools"
  PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --target "$tools" uv
fi
exec "$tools/bin/uv" "$@"
