#!/usr/bin/env bash
# pytest, in two processes at a time and some sessions one after the other: what XLA has compiled stays in a process until it ends, and
# one session over all tests grows to 20 GB. Arguments go to pytest; with a path among them there is one session.
set -uo pipefail
NOTHING_SELECTED=5

sessions=(
  "tests/pipeline tests/components tests/test_*.py"
  "tests/export tests/quantization tests/preflight tests/xla tests/setup"
  "tests/data tests/gemma tests/monitoring tests/report tests/teacher tests/training tests/transfer"
)
for argument in "$@"; do
  if [[ -e ${argument%%::*} ]]; then sessions=(""); fi
done

worst=$NOTHING_SELECTED
for rooms in "${sessions[@]}"; do
  # shellcheck disable=SC2086  # several words
  .venv/bin/python -m pytest --numprocesses 2 --dist loadfile $rooms "$@"
  code=$?
  if [[ $code -eq $NOTHING_SELECTED ]]; then continue; fi
  if [[ $worst -eq $NOTHING_SELECTED || $code -gt $worst ]]; then worst=$code; fi
done
exit "$worst"
