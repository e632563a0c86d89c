#!/usr/bin/env bash
# Feeds the readers with inputs that libFuzzer makes, one target after the other, under AddressSanitizer and
# UndefinedBehaviorSanitizer. Needs clang with its runtime (Debian: clang libclang-rt-14-dev).
#
#   tests/fuzz/run.sh [SECONDS [TARGET ...]]     180 seconds for each of all targets where nothing is said
#
# What was found worth keeping stays in build/fuzz/corpus/TARGET, from where the next run goes on. An input that fails
# lies in build/fuzz/findings; `LOCKSTEP_FUZZ_TARGET=TARGET build/fuzz/tests/fuzz/reader_libfuzzer FILE` repeats it.
# Ends with a line a target, and with status 1 where something was found.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
seconds=${1:-180}
shift || true
targets=("$@")
((${#targets[@]})) || targets=(idx cifar tokens packed tar tar_index loader_state safetensors safetensors_header safetensors_index pipeline_plan jpeg png)
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "run.sh: seconds must be a whole number, but are '$seconds'" >&2; exit 2; }

# clang may be there without the library behind -fsanitize=fuzzer.
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' >"$probe/probe.cpp"
clang++ -fsanitize=fuzzer,address "$probe/probe.cpp" -o "$probe/probe" 2>"$probe/log" || {
  tail -n 3 "$probe/log" >&2
  echo 'run.sh: there is no clang++ with libFuzzer here (Debian: clang libclang-rt-14-dev)' >&2
  exit 1
}

cmake --preset fuzz >"$probe/log" 2>&1 && cmake --build --preset fuzz >>"$probe/log" 2>&1 || {
  tail -n 40 "$probe/log" >&2
  exit 1
}
build=$root/build/fuzz
mkdir -p "$build/findings"
# Torch's threads would only be in each other's way.
export OMP_NUM_THREADS=1 UBSAN_OPTIONS=print_stacktrace=1
status=0
table=$'| target | executions | seconds | edges | corpus | found |\n|---|---|---|---|---|---|'
for target in "${targets[@]}"; do
  mkdir -p "$build/corpus/$target"
  found=nothing
  LOCKSTEP_FUZZ_TARGET=$target "$build/tests/fuzz/reader_libfuzzer" "$build/corpus/$target" \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
    -artifact_prefix="$build/findings/$target-" >"$build/$target.log" 2>&1 || {
    found=$(sed -nE '/^Test unit written to (.*)$/{s//\1/p;q}' "$build/$target.log")
    [[ -n $found ]] || found='see the log'
    status=1
    tail -n 30 "$build/$target.log" >&2
  }
  last=$(grep -E '^#[0-9]+.* cov: ' "$build/$target.log" | tail -n 1) || true # a crash may come before the first such line
  edges=$(sed -nE 's/.* cov: ([0-9]+) .*/\1/p' <<<"$last")
  corpus=$(sed -nE 's/.* corp: ([0-9]+)\/.*/\1/p' <<<"$last")
  executions=$(sed -nE 's/^stat::number_of_executed_units: *([0-9]+)$/\1/p' "$build/$target.log")
  table+=$'\n'"| $target | ${executions:-?} | $seconds | ${edges:-?} | ${corpus:-?} | $found |"
done
echo "$table"
exit "$status"
