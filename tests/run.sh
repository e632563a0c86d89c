#!/usr/bin/env bash
# Sets up, builds and runs the tests. Arguments go to ctest (for example: -R comm, -L unit).
#
#   LOCKSTEP_PRESET=NAME     which preset to build and test (default: release; also debug, asan, tsan)
#   LibTorch_ROOT=DIR        use this LibTorch instead of the pinned wheel
#   LOCKSTEP_CPU_ONLY=1      install the small, CPU-only set of wheels
#   CI=true                  turn compiler warnings into errors
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
preset=${LOCKSTEP_PRESET:-release}
[[ -z ${LibTorch_ROOT:-} ]] || { LibTorch_ROOT=$(realpath "$LibTorch_ROOT"); export LibTorch_ROOT; }
cd "$root"
# told WHAT: how long the part that has just ended took.
told() { echo "run.sh: $1 took $SECONDS s" >&2; SECONDS=0; }
LOCKSTEP_WITH_TESTS=1 tools/setup.sh
told 'set-up'
cmake --preset "$preset" -DLibTorch_ROOT="${LibTorch_ROOT:-$root/build/venv}" \
  ${CI:+-DLOCKSTEP_WARNINGS_AS_ERRORS=ON}
cmake --build --preset "$preset"
told 'the build'
# One more than there are cores: most tests wait for processes, messages and timeouts half of their time.
exec ctest --preset "$preset" -j "$(($(nproc) + 1))" "$@"
