#!/usr/bin/env bash
# Sets up, builds and trains with one command. See README.md beside this file.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build_dir=$root/build

fail() { echo "run.sh: $2" >&2; exit "$1"; }

show_help() {
  cat <<'END'
Usage: examples/resnet/run.sh [--ranks N] [OPTION ...]

Installs what is missing (tools/setup.sh), builds the example and starts N ranks of it with mpirun.

  --ranks N   ranks to start on this machine, 1 to 1024 (default 2)

Every other option goes to the program:

END
}

ranks=2
help=0
arguments=()
has_progress=0
while (($#)); do
  case $1 in
    --ranks)
      (($# >= 2)) || fail 2 '--ranks: needs a number (--help lists the options)'
      ranks=$2
      shift
      ;;
    --ranks=*) ranks=${1#--ranks=} ;;
    -h | --help) help=1 ;;
    --progress | --progress=*)
      has_progress=1
      arguments+=("$1")
      ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
[[ $ranks =~ ^[1-9][0-9]{0,3}$ ]] && ((ranks <= 1024)) ||
  fail 2 "--ranks: must be a whole number from 1 to 1024, but is '$ranks' (--help lists the options)"

program=$build_dir/release/examples/resnet/resnet
if ((help)); then
  show_help
  [[ -x $program ]] || { echo '(listed by --help once a first run has built the program)'; exit 0; }
  exec "$program" --help
fi

[[ -z ${LibTorch_ROOT:-} ]] || { LibTorch_ROOT=$(realpath "$LibTorch_ROOT"); export LibTorch_ROOT; }
"$root/tools/setup.sh"
command -v mpirun >/dev/null ||
  fail 1 'mpirun was not found; install Open MPI (Debian: openmpi-bin), or start the ranks with torchrun-style variables (docs/launching.md)'

# Quiet unless it fails: what is wanted here is the training.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
build() {
  cmake -S "$root" -B "$build_dir/release" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DLibTorch_ROOT="${LibTorch_ROOT:-$build_dir/venv}" &&
    cmake --build "$build_dir/release" --target resnet
}
echo 'run.sh: building (some minutes the first time)' >&2
if ! build >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  fail 1 'the build failed; the end of its output is above'
fi
rm -f "$log"

# Only here is it known whether a person looks on: mpirun gives its ranks pipes and terminals of its own.
if ! ((has_progress)); then
  [[ -t 1 && -t 2 ]] && arguments+=(--progress bar) || arguments+=(--progress lines)
fi

# -q: without mpirun's banner below the program's own error message.
# btl: ranks of one host need no network, and Open MPI would listen on every interface.
# OMP_WAIT_POLICY: threads that wait must not take the cores from other ranks.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
exec mpirun -q -n "$ranks" --oversubscribe --bind-to none \
  --mca btl self,vader --mca btl_vader_single_copy_mechanism none \
  "$program" ${arguments[@]+"${arguments[@]}"}
