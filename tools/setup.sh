#!/usr/bin/env bash
# Installs what Lockstep needs and this machine lacks: Debian packages, and LibTorch from the pinned wheel in a
# virtual environment inside the build folder. Silent where nothing is missing; safe to run again at any time.
#
#   tools/setup.sh           what building and running needs
#   tools/setup.sh docs      only what tools/docs.sh needs
#   tools/setup.sh lint      only what tools/lint.sh needs
#
#   LibTorch_ROOT=DIR        use the LibTorch (2.11 or newer) in DIR and install no wheel
#   LOCKSTEP_WITH_TESTS=1    also what only the tests need (tests/run.sh sets it)
#   LOCKSTEP_WITH_HOSTS=1    also what tools/hosts.sh needs (benchmarks/run.sh sets it)
#   LOCKSTEP_WITH_TEXT=1     also the text that examples/gpt learns from (its run.sh sets it)
#   LOCKSTEP_WITH_TORCHVISION=1  also what one benchmark compares with (benchmarks/run.sh sets it)
#   LOCKSTEP_CPU_ONLY=1      install only what CPU training needs (about 0.6 GB to download instead of 2.5 GB)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/versions.env
source "$root/tools/versions.env"
# shellcheck source=tools/messages.sh
source "$root/tools/messages.sh"
build_dir=$root/build
venv=$build_dir/venv

packages=(g++ cmake ninja-build ccache openmpi-bin libopenmpi-dev libgtest-dev libgmock-dev
          libjpeg62-turbo-dev libpng-dev zlib1g-dev libcurl4-openssl-dev libcli11-dev nlohmann-json3-dev libxxhash-dev libgloo-dev
          dataset-fashion-mnist python3 python3-venv)
# A second launcher beside Open MPI's. Debian keeps Open MPI as the default where both are installed.
[[ ${LOCKSTEP_WITH_TESTS:-0} == 1 ]] && packages+=(mpich)
# A text of 4.4 MB, in 2.5 MB to download.
[[ ${LOCKSTEP_WITH_TEXT:-0} == 1 ]] && packages+=(bible-kjv)
# For tools/hosts.sh.
[[ ${LOCKSTEP_WITH_TESTS:-0} == 1 || ${LOCKSTEP_WITH_HOSTS:-0} == 1 ]] && packages+=(iproute2)

case ${1:-} in
  '') ;;
  docs) packages=(doxygen python3) ;;
  lint) packages=(doxygen python3 shellcheck g++ "clang-format-$LOCKSTEP_LLVM_VERSION" "clang-tidy-$LOCKSTEP_LLVM_VERSION") ;;
  *) fail "'$1' is nothing that is set up: docs, lint, or no argument" ;;
esac

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) == 'install ok installed' ]] || echo "$package"
  done
}

install_packages() {
  local -a missing
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null ||
    fail "these packages are missing and there is no apt-get here to install them: ${missing[*]}"
  if ((EUID != 0)); then
    say "these Debian packages are missing: ${missing[*]}"
    fail "run this once, then start again:  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  say "installing Debian packages: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    fail "apt-get could not install the packages above"
  fi
  rm -f "$log"
}

# install_wheels FOLDER WHEELS: in a folder of their own, because the library needs none of them. What compares with them does
# without where there is no Python of ours.
install_wheels() {
  local folder=$build_dir/$1 wheels=$2
  local marker=$folder/.lockstep-wheels have=''
  [[ -x $venv/bin/pip ]] || return 0
  [[ -f $marker ]] && have=$(<"$marker")
  [[ $have == "$wheels" ]] && return 0
  say "installing $wheels into $folder"
  rm -rf "$folder"
  # shellcheck disable=SC2086  # a list of words on purpose
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$folder" $wheels ||
    fail "pip could not install $wheels"
  echo "$wheels" >"$marker"
}

install_packages
(($# == 0)) || exit 0
if [[ -n ${LibTorch_ROOT:-} ]]; then
  [[ -d $LibTorch_ROOT ]] || fail "LibTorch_ROOT is '$LibTorch_ROOT', which is no folder"
else
  libtorch=("$root/tools/install_libtorch.sh" "$venv")
  [[ ${LOCKSTEP_CPU_ONLY:-0} != 1 ]] || libtorch+=(--cpu-only)
  "${libtorch[@]}"
fi
[[ ${LOCKSTEP_WITH_TORCHVISION:-0} != 1 ]] || install_wheels torchvision "$LOCKSTEP_TORCHVISION_WHEELS"
[[ ${LOCKSTEP_WITH_TESTS:-0} != 1 ]] || install_wheels test_wheels "$LOCKSTEP_TEST_WHEELS"
