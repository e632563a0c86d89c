#!/usr/bin/env bash
# Builds the Debian package: build/package/liblockstep-dev_VERSION_ARCHITECTURE.deb, and prints its path.
#
#   LibTorch_ROOT=DIR        build against this LibTorch instead of the pinned wheel
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -z ${LibTorch_ROOT:-} ]] || { LibTorch_ROOT=$(realpath "$LibTorch_ROOT"); export LibTorch_ROOT; }
cd "$root"
tools/setup.sh
build=build/package
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLibTorch_ROOT="${LibTorch_ROOT:-$root/build/venv}" \
  -DLOCKSTEP_BUILD_TESTS=OFF -DLOCKSTEP_BUILD_EXAMPLES=OFF -DLOCKSTEP_BUILD_BENCHMARKS=OFF >&2
cmake --build "$build" >&2
rm -f "$build"/*.deb
(cd "$build" && cpack >&2)
ls "$root/$build"/*.deb
