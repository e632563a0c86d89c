#!/usr/bin/env bash
# torchrun.sh TORCHRUN RANKS PROGRAM [ARGUMENT ...]: ranks of one host, which meet on the loop-back interface.
# Exit status 77 where that Python cannot import torch (an installation for CPU training only).
set -euo pipefail
torchrun=$1 ranks=$2
shift 2
"$(dirname "$torchrun")/python3" -c 'import torch.distributed.run' 2>/dev/null || { echo "no torch for torchrun" >&2; exit 77; }
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
exec "$torchrun" --no-python --nproc-per-node "$ranks" --master-addr 127.0.0.1 --master-port "$port" "$@"
