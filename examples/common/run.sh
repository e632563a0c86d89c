# Sourced by the run.sh of an example, which has set `root`, the top of the tree, and `example`, the name of folder and program:
# what one command needs to set up, build and start an example.
# shellcheck shell=bash disable=SC2034,SC2154  # what the two scripts share

build_dir=$root/build
program=$build_dir/release/examples/$example/$example

fail() { echo "run.sh: $2" >&2; exit "$1"; }

# take_ranks ARGUMENT ...: --ranks and --help are ours and set `ranks` and `help`; all others are left in `arguments`.
take_ranks() {
  ranks=2
  help=0
  arguments=()
  while (($#)); do
    case $1 in
      --ranks)
        (($# >= 2)) || fail 2 '--ranks: needs a number (--help lists the options)'
        ranks=$2
        shift
        ;;
      --ranks=*) ranks=${1#--ranks=} ;;
      -h | --help) help=1 ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
  [[ $ranks =~ ^[1-9][0-9]{0,3}$ ]] && ((ranks <= 1024)) ||
    fail 2 "--ranks: must be a whole number from 1 to 1024, but is '$ranks' (--help lists the options)"
}

# The program's options behind those of the script, which stand on stdin.
show_help() {
  cat
  [[ -x $program ]] || { echo '(listed by --help once a first run has built the program)'; exit 0; }
  exec "$program" --help
}

# set_up_and_build TARGET ...: quiet unless it fails, since what is wanted here is the training.
set_up_and_build() {
  [[ -z ${LibTorch_ROOT:-} ]] || { LibTorch_ROOT=$(realpath "$LibTorch_ROOT"); export LibTorch_ROOT; }
  "$root/tools/setup.sh"
  command -v mpirun >/dev/null ||
    fail 1 'mpirun was not found; install Open MPI (Debian: openmpi-bin), or start the ranks with torchrun-style variables (docs/launching.md)'
  local log
  log=$(mktemp)
  echo 'run.sh: building (some minutes the first time)' >&2
  if ! { cmake -S "$root" -B "$build_dir/release" -G Ninja -DCMAKE_BUILD_TYPE=Release \
           -DLibTorch_ROOT="${LibTorch_ROOT:-$build_dir/venv}" &&
         cmake --build "$build_dir/release" --target "$@"; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    fail 1 'the build failed; the end of its output is above'
  fi
  rm -f "$log"
}

# start ARGUMENT ...: the ranks, in the place of this script.
# -q: without mpirun's banner below the program's own error message.
# btl: ranks of one host need no network, and Open MPI would listen on every interface.
# OMP_WAIT_POLICY: threads that wait must not take the cores from other ranks.
start() {
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
  exec mpirun -q -n "$ranks" --oversubscribe --bind-to none \
    --mca btl self,vader --mca btl_vader_single_copy_mechanism none \
    "$program" "$@"
}
