#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs the checks of docs/gpu.md on a machine with a GPU, in at most ten minutes, and prints one line for each.
#
#   tests/gpu/run.sh [--json FILE] [--only 3,4] [--nccl libnccl.so.2] [--cpu]
#
# Needs a driver and a Python that can import torch of the version that the programs were built with; no network, no MPI.
# Works in a folder that tests/gpu/pack.sh has packed, and in a tree that was built. --cpu: the same checks, small, on the CPU.
# LOCKSTEP_PYTHON names the Python.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
has_torch='import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'
for python in ${LOCKSTEP_PYTHON:-} python3 "$here/../../build/venv/bin/python3"; do
  if command -v "$python" > /dev/null && "$python" -c "$has_torch"; then
    exec "$python" "$here/checks.py" "$@"
  fi
done
echo "run.sh: no Python here can import torch; install the wheel with pip, or name a Python by LOCKSTEP_PYTHON" >&2
exit 2
