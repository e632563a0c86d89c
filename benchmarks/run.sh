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
  echo "  data_parallel  two ranks as threads of one process, against two processes and against LibTorch's replicate"
  echo "  optimizer_step  a step of SGD and AdamW with Lockstep, with LibTorch, and with Python in three ways"
  echo "  pipeline   a step of a transformer in stages, against the unsplit model, the simulator, and torch's pipelining"
  echo "  tensor_parallel  layers and a loss that two ranks share, against the whole of them on one core"
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

ddp_step() {
  local driver=$root/benchmarks/ddp_step_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build ddp_step
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/ddp_step" "--python=$(python_with_torch)" "$@"
}

data_loader() {
  local driver=$root/benchmarks/data_loader_driver.py
  early_checks "$driver" "$@"
  LOCKSTEP_WITH_TORCHVISION=1 "$root/tools/setup.sh"
  build data_loader_benchmark
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/data_loader_benchmark" "--python=$(python_with_torch)" \
    "--torchvision=$build_dir/torchvision" "$@"
}

checkpoint() {
  local driver=$root/benchmarks/checkpoint_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build checkpoint
  build log_call
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/checkpoint" "--python=$(python_with_torch)" "$@"
}

data_parallel() {
  local driver=$root/benchmarks/data_parallel_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build data_parallel_benchmark
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/data_parallel_benchmark" "$@"
}

optimizer_step() {
  local driver=$root/benchmarks/optimizer_step_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build optimizer_step
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/optimizer_step" "--python=$(python_with_torch)" "$@"
}

tensor_parallel() {
  local driver=$root/benchmarks/tensor_parallel_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build tensor_parallel
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/tensor_parallel" "--python=$(python_with_torch)" "$@"
}

profiler_call() {
  local driver=$root/benchmarks/profiler_call_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build profiler_call
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/profiler_call" "$@"
}

scalar_call() {
  local driver=$root/benchmarks/scalar_call_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build scalar_call
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/scalar_call" "--python=$(python_with_torch)" "$@"
}

pipeline() {
  local driver=$root/benchmarks/pipeline_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build pipeline_step
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/pipeline_step" "--python=$(python_with_torch)" "$@"
}

gpt() {
  local driver=$root/benchmarks/gpt_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build gpt_benchmark
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/gpt_benchmark" "--python=$(python_with_torch)" "$@"
}

# collective OP ARGUMENT ...
collective() {
  local driver=$root/benchmarks/collectives_driver.py
  early_checks "$driver" "$@"
  "$root/tools/setup.sh"
  build collectives
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/collectives" "$@"
}

hosts() {
  local driver=$root/benchmarks/hosts_driver.py
  early_checks "$driver" "$@"
  LOCKSTEP_WITH_HOSTS=1 "$root/tools/setup.sh"
  build ddp_step
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/ddp_step" "--python=$(python_with_torch)" "$@"
}

# over_hosts NAME PROGRAM ARGUMENT ...
over_hosts() {
  local driver=$root/benchmarks/$1_driver.py program=$2
  shift 2
  early_checks "$driver" "$@"
  LOCKSTEP_WITH_HOSTS=1 "$root/tools/setup.sh"
  build "$program"
  exec python3 "$driver" "--program=$build_dir/release/benchmarks/$program" "$@"
}

hooks() { over_hosts hooks ddp_step "$@"; }
links() { over_hosts links collectives "$@"; }

case ${1:-} in
  '') list ;;
  -h | --help) list ;;
  checkpoint | data_loader | data_parallel | ddp_step | gpt | hooks | hosts | links | optimizer_step | pipeline | \
    profiler_call | scalar_call | tensor_parallel)
    "$@" ;;
  all_reduce | broadcast | all_gather | reduce_scatter | all_to_all) collective "$@" ;;
  *)
    echo "benchmark: there is no benchmark '$1'; benchmarks/run.sh lists them" >&2
    exit 2
    ;;
esac
