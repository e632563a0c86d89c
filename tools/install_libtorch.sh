#!/usr/bin/env bash
# install_libtorch.sh FOLDER [--cpu-only]: installs LibTorch from the pinned wheel into a virtual environment in FOLDER,
# which is what LibTorch_ROOT takes, and the headers of CUDA that its own need. Silent where FOLDER has them already.
# --cpu-only: what CPU training needs (about 0.6 GB to download instead of 2.5 GB).
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
# shellcheck source=tools/versions.env
source "$here/versions.env"
# shellcheck source=tools/messages.sh
source "$here/messages.sh"

[[ $# == 1 || ( $# == 2 && $2 == --cpu-only ) ]] && [[ $1 != -* ]] || fail "usage: $(basename "$0") FOLDER [--cpu-only]"
venv=$1
full="torch==$LOCKSTEP_TORCH_VERSION numpy $LOCKSTEP_CUDA_HEADER_WHEELS"
cpu_only="torch==$LOCKSTEP_TORCH_VERSION $LOCKSTEP_CPU_ONLY_WHEELS"
flavour=full want=$full size=2.5
[[ $# == 1 ]] || flavour=cpu-only want=$cpu_only size=0.6

# The marker is written last, so that an interrupted installation is repeated, and names what it installed.
marker=$venv/.lockstep-torch have=''
[[ ! -f $marker ]] || have=$(<"$marker")
# A full installation serves CPU training as well.
[[ $have != "$want" && $have != "$full" ]] || exit 0
say "installing torch $LOCKSTEP_TORCH_VERSION ($flavour) into $venv; this downloads $size GB"
# The system's python, not a user's shim: the environment must stay valid when shims change.
python=python3
[[ ! -x /usr/bin/python3 ]] || python=/usr/bin/python3
mkdir -p "$(dirname "$venv")"
"$python" -m venv "$venv" || fail "python3 could not make a virtual environment in $venv"
pip=("$venv/bin/pip" install --quiet --disable-pip-version-check)
[[ $flavour == full ]] || pip+=(--no-deps)
# shellcheck disable=SC2086  # a list of words on purpose
"${pip[@]}" $want || fail "pip could not install $want"
echo "$want" >"$marker"
