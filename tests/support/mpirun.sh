#!/usr/bin/env bash
# mpirun.sh RANKS PROGRAM [ARGUMENT ...]: starts ranks as on any machine, also as root and with more ranks than cores.
# Over the loop-back and shared memory only: no rank of Open MPI listens on a network interface.
set -euo pipefail
ranks=$1
shift
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Where gloo's ranks meet: below the ports that the kernel gives to whoever asks for any (from 32768), so that nobody takes it
# before they come.
export MASTER_ADDR=127.0.0.1
if [[ -z ${MASTER_PORT:-} ]]; then
  MASTER_PORT=$((10000 + $$ % 20000))
  while (: <>"/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null; do MASTER_PORT=$((MASTER_PORT + 1)); done # somebody listens there
fi
export MASTER_PORT
exec mpirun -n "$ranks" --oversubscribe --bind-to none --mca btl self,vader --mca btl_vader_single_copy_mechanism none "$@"
