#!/usr/bin/env bash
# run_consumer.sh BUILD_DIR LIBTORCH MPIRUN...: installs BUILD_DIR into an empty prefix, builds the consumer against
# nothing but that, and runs it with two ranks. Every folder has a space in its name, LibTorch's a comma too.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$1 libtorch=$2
shift 2
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
work="$temporary/some folder"
wheels="$work/wheels, in a folder"
mkdir -p "$wheels"
ln -s "$(dirname "$libtorch")"/* "$wheels/"
libtorch="$wheels/$(basename "$libtorch")"
cmake --install "$build" --prefix "$work/prefix" >"$work/install.log" || { cat "$work/install.log"; exit 1; }
"$work/prefix/bin/lockstep-report" --version
cmake -S "$here/consumer" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_PREFIX_PATH="$work/prefix" -DLibTorch_ROOT="$libtorch"
cmake --build "$work/build"
"$work/build/consumer"
if (($#)); then
  output=$("$@" 2 "$work/build/consumer")
  echo "$output"
  grep -q '^consumer: 2 ranks, gradient 0.5$' <<<"$output"
fi
