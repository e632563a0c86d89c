#!/usr/bin/env bash
# run_deb.sh PACKAGE: installs the Debian package on this machine, LibTorch by the package's own tool, and builds and runs
# a project and the examples against nothing but these. For a bare system:
#
#   tools/bare_root.sh tests/package/run_deb.sh "$(tools/package.sh)"
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
package=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y "$package"
/usr/share/lockstep/install_libtorch.sh "$work/torch"
/usr/share/lockstep/install_libtorch.sh "$work/torch"  # has nothing to do

build() {
  cmake -S "$1" -B "$work/$2" -DCMAKE_BUILD_TYPE=Release -DLibTorch_ROOT="$work/torch"
  cmake --build "$work/$2" --parallel "$(nproc)"
}
run_ranks() {
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -n 2 --oversubscribe "$@"
}

lockstep-report --version

build "$here/consumer" consumer
output=$(run_ranks "$work/consumer/consumer")
echo "$output"
grep -q '^consumer: 2 ranks, gradient 0.5$' <<<"$output"

build /usr/share/doc/liblockstep-dev/examples examples
run_ranks "$work/examples/minimal/minimal"
echo "run_deb: the package builds and runs programs"
