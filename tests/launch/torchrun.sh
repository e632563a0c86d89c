#!/usr/bin/env bash
# torchrun.sh TORCHRUN RANKS PROGRAM [ARGUMENT ...]: ranks of one host, which meet on the loop-back interface.
# Exit status 77 where that Python cannot import torch (an installation for CPU training only).
set -euo pipefail
torchrun=$1 ranks=$2
shift 2
"$(dirname "$torchrun")/python3" -c 'import torch.distributed.run' 2>/dev/null || { echo "no torch for torchrun" >&2; exit 77; }
# Below the ports that the kernel gives to whoever asks for any (from 32768), so that nobody takes it before the ranks come.
port=$((10000 + $$ % 20000))
while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done # somebody listens there
exec "$torchrun" --no-python --nproc-per-node "$ranks" --master-addr 127.0.0.1 --master-port "$port" "$@"
