#!/usr/bin/env bash
# Builds .venv: scripts/setup.sh [packages|project], both steps where none is named.
#   packages   a C library that is new enough, Python 3.11, and the packages that pyproject.toml asks for and constraints.txt pins
#   project    this project itself, editable
# EXTRAS (dev) names extras of pyproject.toml, separated by commas; empty is the core alone. GLIBC=keep: see glibc.sh.
# TENSORFLOW=tpu, on a TPU VM and with EXTRAS empty, takes the packages of tensorflow-tpu.txt in place of tensorflow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly STEPS=${*:-packages project}
readonly EXTRAS=${EXTRAS-dev}
readonly TENSORFLOW=${TENSORFLOW-}
readonly OVERRIDES=scripts/tensorflow-tpu.txt
readonly PYTHON=.venv/bin/python
# Compiled once here and not by every process that can't write byte code: importing TFX takes a third of the time.
export UV_COMPILE_BYTECODE=${UV_COMPILE_BYTECODE-1}

uv() { bash scripts/uv.sh "$@"; }

is_python_311() { "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

install_packages() {
  if [ -n "$TENSORFLOW" ] && { [ "$TENSORFLOW" != tpu ] || [ -n "$EXTRAS" ]; }; then
    echo "setup: TENSORFLOW is '$TENSORFLOW' and EXTRAS '$EXTRAS': tensorflow-tpu goes with no extra (TENSORFLOW=tpu EXTRAS= make setup)" >&2
    exit 2
  fi
  case ",$EXTRAS," in
    *,tfx,* | *,vertex,* | *,demo,* | *,dev,*) bash scripts/glibc.sh ;;
  esac
  # uv remembers an interpreter together with the glibc that it once ran on, and would go on refusing wheels for a newer one.
  rm -rf "$(uv cache dir)"/interpreter-v*
  if ! is_python_311; then
    rm -rf .venv
    if ! uv venv --quiet --python 3.11 .venv; then
      echo "setup: no Python 3.11: install it (python3.11 with its headers), or let uv reach the network for one of its own" >&2
      exit 2
    fi
  fi
  echo "setup: $("$PYTHON" --version) in .venv"
  echo "setup: installing the core packages and the extras ${EXTRAS:-(none)}; dev has 3.3 GB, some minutes where uv's cache is empty"
  local extras=()
  for extra in ${EXTRAS//,/ }; do extras+=(--extra "$extra"); done
  local constraints=constraints.txt
  if [ "$TENSORFLOW" = tpu ]; then
    # What is overridden must not be held to its former version.
    constraints=.venv/constraints-tpu.txt
    awk -F '[=; ]' 'NR == FNR { if (/^[a-z]/) names[$1]; next } !($1 in names)' "$OVERRIDES" constraints.txt >"$constraints"
    extras+=(--override "$OVERRIDES" tensorflow-tpu)
  fi
  if ! uv pip install --quiet --python "$PYTHON" --constraint "$constraints" --requirement pyproject.toml "${extras[@]}"; then
    # pyfarmhash, which tensorflow-data-validation wants, has no wheels.
    if ! command -v c++ >/dev/null; then echo "setup: TFX needs a C++ compiler here (Debian and Ubuntu: apt-get install g++)" >&2; fi
    exit 2
  fi
}

install_project() {
  echo "setup: installing gemma-tf-distill, editable"
  uv pip install --quiet --python "$PYTHON" --no-deps --editable .
}

for step in $STEPS; do
  case $step in
    packages) install_packages ;;
    project) install_project ;;
    *)
      echo "setup: '$step' is no step of this script: packages or project" >&2
      exit 2
      ;;
  esac
done
echo "setup: done in $SECONDS s"
