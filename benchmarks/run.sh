#!/usr/bin/env bash
# Sets up, builds and runs a benchmark:  benchmarks/run.sh NAME [ARGUMENT ...]
# Without arguments it lists the benchmarks. benchmarks/README.md explains their figures.
#
#   LibTorch_ROOT=DIR        use the LibTorch in DIR instead of the pinned wheel
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build_dir=$root/build

list() {
  echo "usage: benchmarks/run.sh NAME [ARGUMENT ...]"
  echo
  echo "  ddp_step   a training step with Lockstep, with plain MPI, with PyTorch's DDP, and without communication"
  echo "  data_loader  the DataLoader against Python's: Fashion-MNIST, large samples, photographs"
  echo "  all_reduce, broadcast, all_gather, reduce_scatter, all_to_all"
  echo "             one collective from 1 KiB to 256 MiB with Lockstep, with MPI, and with c10d's gloo"
  echo "  hosts      a training step on several hosts: Lockstep, plain MPI, PyTorch's DDP, and no communication"
  echo "  links      all_reduce between hosts from 1 KiB to 256 MiB with Lockstep, with MPI, and with c10d's gloo"
  echo "  hooks      a training on several hosts with each communication hook: time and loss"
  echo "  scalar_call  how long a scalar for TensorBoard keeps its caller"
  echo "  gpt        a language model, against the same model and recipe in Python with DDP: tokens a second, and the losses"
  echo "  checkpoint  a training that saves, against torch.save and async_save; files against a plain program"
  echo "  cold_read  a loader that reads files ahead, against one that reads when asked, cold and warm; and the read engines"
  echo "  data_parallel  two ranks as threads of one process, against two processes and against LibTorch's replicate"
  echo "  optimizer_step  a step of SGD and AdamW with Lockstep, with LibTorch, and with Python in three ways"
  echo "  ensemble   requests to models in processes of their own, against torch.multiprocessing and against one thread"
  echo "  pipeline   a step of a transformer in stages, against the unsplit model, the simulator, and torch's pipelining"
  echo "  tensor_parallel  layers and a loss that two ranks share, against the whole of them on one core"
  echo "  task_pool  tasks a second of a TaskPool, against multiprocessing.Pool and torch.multiprocessing"
  echo "  profiler_call  what ranges and profilers cost that nobody uses"
  echo
  echo "benchmarks/run.sh NAME --help shows the arguments."
}

# build TARGET: quiet unless it fails; a first build takes minutes, so it says that it has begun.
build() {
  local log
  log=$(mktemp)
  [[ -e $build_dir/release/benchmarks/$1 ]] || echo "benchmark: building (once; takes minutes)" >&2
  if ! { cmake -S "$root" -B "$build_dir/release" -G Ninja -DCMAKE_BUILD_TYPE=Release \
           "-DLibTorch_ROOT=${LibTorch_ROOT:-$build_dir/venv}" &&
         cmake --build "$build_dir/release" --target "$1"; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    echo "benchmark: error: the build failed; its last lines are above" >&2
    exit 1
  fi
  rm -f "$log"
}

# The interpreter that belongs to the LibTorch in use; the driver finds out whether it can import torch.
python_with_torch() {
  local candidate=${LibTorch_ROOT:-$build_dir/venv}/bin/python3
  [[ -x $candidate ]] && echo "$candidate" || command -v python3
}

# early_checks DRIVER ARGUMENT ...: wrong arguments are told before a long build; set-up brings python3.
early_checks() {
  command -v python3 >/dev/null || return 0
  local argument
  for argument in "${@:2}"; do
    [[ $argument != -h && $argument != --help ]] || exec python3 "$1" --help
  done
  python3 "$1" --check-arguments "${@:2}"
}

# prepare NAME PROGRAM ARGUMENT ...: sets `driver` and `program`, of which one starts the other.
prepare() {
  driver=$root/benchmarks/$1_driver.py
  program=$build_dir/release/benchmarks/$2
  early_checks "$driver" "${@:3}"
  "$root/tools/setup.sh"
  build "$2"
}

# alone NAME PROGRAM ARGUMENT ...: what compares with nothing in Python.
alone() {
  prepare "$@"
  exec python3 "$driver" "--program=$program" "${@:3}"
}

# beside_python NAME PROGRAM ARGUMENT ...
beside_python() {
  prepare "$@"
  exec python3 "$driver" "--program=$program" "--python=$(python_with_torch)" "${@:3}"
}

data_loader() {
  export LOCKSTEP_WITH_TORCHVISION=1
  beside_python data_loader data_loader_benchmark "--torchvision=$build_dir/torchvision" "$@"
}

checkpoint() {
  prepare checkpoint checkpoint "$@"
  build log_call
  exec python3 "$driver" "--program=$program" "--python=$(python_with_torch)" "$@"
}

name=${1:-}
shift $(($# > 0))
case $name in
  '' | -h | --help) list ;;
  checkpoint | data_loader) "$name" "$@" ;;
  ddp_step | optimizer_step | scalar_call | task_pool | tensor_parallel) beside_python "$name" "$name" "$@" ;;
  ensemble | gpt) beside_python "$name" "${name}_benchmark" "$@" ;;
  pipeline) beside_python pipeline pipeline_step "$@" ;;
  data_parallel) alone data_parallel data_parallel_benchmark "$@" ;;
  cold_read | profiler_call) alone "$name" "$name" "$@" ;;
  all_reduce | broadcast | all_gather | reduce_scatter | all_to_all) alone collectives collectives "$name" "$@" ;;
  hosts | hooks | links)
    export LOCKSTEP_WITH_HOSTS=1
    case $name in
      hosts) beside_python hosts ddp_step "$@" ;;
      hooks) alone hooks ddp_step "$@" ;;
      links) alone links collectives "$@" ;;
    esac
    ;;
  *)
    echo "benchmark: there is no benchmark '$name'; benchmarks/run.sh lists them" >&2
    exit 2
    ;;
esac
