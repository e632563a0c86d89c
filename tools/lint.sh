#!/usr/bin/env bash
# Checks that need no build and take seconds.
#
#   tools/lint.sh             installs what they need, and runs all of them
#   tools/lint.sh CHECK ...   runs these with what is there: format shell layers contracts readme pictures snippets names
#                             tidy docs. Exit status 77 where the program for one is missing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/versions.env
source tools/versions.env
folders=(benchmarks examples include src tests)

# needs PROGRAM: whether it is here.
needs() {
  command -v "$1" >/dev/null && return 0
  echo "lint: $1 is not installed; tools/setup.sh lint installs it" >&2
  return 1
}

check_format() {
  local format=clang-format-$LOCKSTEP_LLVM_VERSION
  needs "$format" || return 77
  find "${folders[@]}" tools \( -name '*.h' -o -name '*.cpp' \) -print0 | xargs -0 "$format" --dry-run -Werror
}

check_shell() {
  needs shellcheck || return 77
  local -a scripts
  mapfile -t scripts < <(find "${folders[@]}" tools .ci -type f -exec grep -lE '^#!.*\bbash$' {} + | sort)
  shellcheck --external-sources --severity=warning "${scripts[@]}" || return
  # All scripts set pipefail, so the SIGPIPE of a program whose reader stops early would be the status of the pipeline, by
  # chance of timing.
  if grep -nE '(^|[^|])\| *(grep +-[a-zA-Z]*[qm]|head +-)' "${scripts[@]}"; then
    echo "lint: a pipe ends in a reader that stops early; read a variable or a file instead" >&2
    return 1
  fi
}

check_layers() { python3 tools/check_layers.py .; }
check_contracts() { python3 tools/check_contracts.py .; }
check_readme() { python3 tests/support/check_readme.py .; }
check_pictures() { python3 benchmarks/plot --check; }
check_names() { python3 tools/check_docs.py .; }

# snippets NAME[,NAME...] PAGE ...: the pages show parts of tests/docs/NAME_snippets.cpp.
snippets() { python3 tests/support/check_snippets.py "tests/docs/${1//,/_snippets.cpp,tests/docs/}_snippets.cpp" "${@:2}"; }
check_snippets() {
  local status=0
  snippets ddp docs/ddp.md docs/communication_hooks.md docs/batch_norm_and_checkpoints.md || status=1
  snippets background_writing docs/background_writing.md || status=1
  snippets checkpointing docs/checkpointing.md || status=1
  snippets data docs/data_loading.md || status=1
  snippets pools docs/pools.md || status=1
  snippets data_parallel docs/data_parallel.md || status=1
  snippets data_source docs/data_sources.md || status=1
  snippets ensembles docs/ensembles.md || status=1
  snippets pipeline docs/pipeline.md || status=1
  snippets gpu docs/gpu.md || status=1
  snippets image docs/image_data.md || status=1
  snippets read_ahead docs/read_ahead.md || status=1
  snippets pipeline_schedule docs/pipeline_schedules.md || status=1
  snippets tensor_parallel docs/tensor_parallel.md || status=1
  snippets amp,metrics,optim,profiler,schedule,tensorboard docs/training_toolbox.md || status=1
  return $status
}

# .clang-tidy says which checks. Only what needs no torch: a file with torch takes ten times as long.
check_tidy() {
  local tidy=clang-tidy-$LOCKSTEP_LLVM_VERSION
  needs "$tidy" || return 77
  find src \( -path 'src/native/posix/*.cpp' -o -path 'src/workers/*.cpp' -o -path 'src/comm/shared_memory/counters.cpp' -o -path 'src/comm/shared_memory/ring_buffer.cpp' \) \
    ! -path 'src/workers/*_error.cpp' ! -path src/workers/process_end.cpp ! -path src/workers/worker_pool.cpp \
    ! -path 'src/workers/tasks/*' ! -path src/workers/task_errors.cpp -print0 |
    xargs -0 -P "$(nproc)" -n 3 bash -c '"$0" --quiet "$@" -- -std=c++20 -Isrc -Iinclude 2>&1' "$tidy" |
    { ! grep -v ' warnings\? generated\.$'; }
}

check_docs() {
  needs doxygen || return 77
  tools/docs.sh
}

checks=("$@")
if (($# == 0)); then
  tools/setup.sh lint
  checks=(format shell layers contracts readme pictures snippets names tidy docs)
fi
status=0
for check in "${checks[@]}"; do
  declare -F "check_$check" >/dev/null || { echo "lint: '$check' is no check; see the top of $0" >&2; exit 2; }
  SECONDS=0
  "check_$check" || { found=$?; ((status == 1)) || status=$found; ((found == 77)) || echo "lint: $check: not in order" >&2; continue; }
  echo "lint: $check: in order ($SECONDS s)"
done
exit $status
