#!/usr/bin/env bash
# mpirun.sh RANKS PROGRAM [ARGUMENT ...]: starts ranks as on any machine, also as root and with more ranks than cores.
# Over the loop-back and shared memory only: no rank of Open MPI listens on a network interface.
set -euo pipefail
ranks=$1
shift
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
exec mpirun -n "$ranks" --oversubscribe --bind-to none --mca btl self,vader --mca btl_vader_single_copy_mechanism none "$@"
