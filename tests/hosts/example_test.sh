#!/usr/bin/env bash
# example_test.sh HOSTS START RESNET: a short training of examples/resnet on hosts with so many ranks (2x1), started by
# mpirun or as torchrun starts ranks (START: mpirun, ranks). Exit status 77 where this machine cannot make hosts.
set -uo pipefail
layout=$1 start=$2 program=$3
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/tools
output=$(LOCKSTEP_LOG_LEVEL=info "$folder/hosts.sh" "$layout" "$start" bash -c \
  'echo "on host $(hostname)"; exec "$@"' bash "$program" --dataset synthetic --limit 64 --batch-size 8 --image-size 12 \
  --epochs 2 --warmup 0.5 --threads 1 --timeout 120 2>&1)
status=$?
echo "$output"
((status == 0)) || exit "$status"

# expect PATTERN TIMES: so many lines that match.
expect() {
  local found
  found=$(grep -cE "$1" <<<"$output")
  ((found == $2)) || { echo "example_test: $found lines match '$1' instead of $2" >&2; exit 1; }
}
expect 'on host h1$' 1
expect 'on host h2$' 1
expect 'rank [01] of 2, launched by .*: backend .*several hosts' 2
expect '^result: accuracy=[01]\.[0-9]+ .* ranks=2 ' 1
