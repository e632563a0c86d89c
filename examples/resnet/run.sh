#!/usr/bin/env bash
# Sets up, builds and trains with one command. See README.md beside this file.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
example=resnet
# shellcheck source=examples/common/run.sh
source "$root/examples/common/run.sh"

take_ranks "$@"
((!help)) || show_help <<'END'
Usage: examples/resnet/run.sh [--ranks N] [OPTION ...]

Installs what is missing (tools/setup.sh), builds the example and starts N ranks of it with mpirun.

  --ranks N   ranks to start on this machine, 1 to 1024 (default 2)

Every other option goes to the program:

END
set_up_and_build resnet

# Only here is it known whether a person looks on: mpirun gives its ranks pipes and terminals of its own.
if [[ " ${arguments[*]-}" != *' --progress'* ]]; then
  [[ -t 1 && -t 2 ]] && arguments+=(--progress bar) || arguments+=(--progress lines)
fi
start ${arguments[@]+"${arguments[@]}"}
