#!/usr/bin/env bash
# Runs a command of this checkout on a bare Debian 12, as a newcomer's machine is: nothing but `debootstrap
# --variant=minbase`, so that nothing which this machine happens to have can hide what set-up forgot.
#
#   tools/bare_root.sh COMMAND ...          as root, in this checkout, which is bound at its own path
#   tools/bare_root.sh --user COMMAND ...   as a user without root, in a clone of this checkout that is thrown away; the
#                                           command that set-up prints for root is run when it is printed
#   tools/bare_root.sh --check              makes the bare system where there is none yet; or says what is missing to do
#                                           that here, and fails
#
#   LOCKSTEP_BARE_ROOT=DIR   where the bare system is kept (default: /var/cache/lockstep/bookworm). Each run works in a copy.
#
# debootstrap is installed where it is missing. What is taken from this machine: names of hosts, how apt and pip reach
# their packages, and the caches of the compiler (CCACHE_DIR, or the usual folder) and of pip.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kept=${LOCKSTEP_BARE_ROOT:-/var/cache/lockstep/bookworm}
certificates=/usr/local/share/ca-certificates.pem

fail() { echo "bare_root: $*" >&2; exit 1; }

check() {
  ((EUID == 0)) || fail "this needs root"
  command -v debootstrap >/dev/null || [[ -e $kept/etc/debian_version ]] ||
    { command -v apt-get >/dev/null && { apt-get update -q && apt-get install -q -y --no-install-recommends debootstrap; } >/dev/null 2>&1; } ||
    fail "debootstrap is not here and cannot be installed"
  unshare --mount true 2>/dev/null || fail "no mount namespace can be made"
}

# The source of Debian 12 that this machine's apt knows, in either of its two notations; nothing where there is none that
# debootstrap can use. Others have a bookworm, too, so one that is called debian goes first.
debian_mirror() {
  local -a stanzas lines
  mapfile -t stanzas < <(find /etc/apt -name '*.sources' 2>/dev/null | sort)
  mapfile -t lines < <(find /etc/apt -name '*.list' 2>/dev/null | sort)
  {
    awk -v RS= '{
      uri = ""; has_suite = 0; has_main = 0; is_off = 0
      count = split($0, line, "\n")
      for (i = 1; i <= count; i++) {
        words = split(line[i], word)
        if (word[1] == "URIs:") uri = word[2]
        if (word[1] == "Enabled:" && word[2] == "no") is_off = 1
        if (word[1] == "Suites:") for (j = 2; j <= words; j++) if (word[j] == "bookworm") has_suite = 1
        if (word[1] == "Components:") for (j = 2; j <= words; j++) if (word[j] == "main") has_main = 1
      }
      if (has_suite && has_main && !is_off && uri ~ /^(https?|file):/) print uri
    }' "${stanzas[@]}" /dev/null
    awk '$1 == "deb" {
      sub(/\[[^]]*\]/, "")  # options
      if ($3 == "bookworm" && $4 == "main" && $2 ~ /^(https?|file):/) print $2
    }' "${lines[@]}" /dev/null
  } | awk '!first {first = $0} !best && /\/debian\/?$/ {best = $0} END {if (first) print best ? best : first}'
}

make_kept() {
  [[ -e $kept/etc/debian_version ]] && return 0
  echo "bare_root: making a bare Debian 12 in $kept" >&2
  local new
  mkdir -p "$(dirname "$kept")"
  new=$(mktemp -d "$(dirname "$kept")/new.XXXXXX")
  chmod 755 "$new"
  # What it mounts is gone with it, however it ends.
  unshare --mount --propagation private debootstrap --variant=minbase bookworm "$new" "$(debian_mirror)" >"$new.log" 2>&1 ||
    { tail -n 20 "$new.log" >&2; rm -rf --one-file-system "$new" "$new.log"; fail "debootstrap failed; the end of its output is above"; }
  rm -f "$new.log"
  # Another run may have been faster.
  mv -T "$new" "$kept" 2>/dev/null || rm -rf --one-file-system "$new"
}

# copy_if_there FILE: into the same place of the root.
copy_if_there() { [[ ! -e $1 ]] || install -D -m 644 "$(readlink -f "$1")" "$root$1"; }

configure_network() {
  local file mirror settings=$root/etc/apt/apt.conf.d/90as-outside
  for file in /etc/resolv.conf /etc/hosts /etc/pip.conf; do copy_if_there "$file"; done
  mirror=$(debian_mirror)
  if [[ -n $mirror ]]; then  # no packages of others, whose keys are not there either
    : >"$root/etc/apt/sources.list"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
      ! grep -qsF "$mirror" "$file" || copy_if_there "$file"
    done
  fi
  ! command -v apt-config >/dev/null || apt-config dump Acquire >"$settings"
  # The package ca-certificates, which a bare system lacks, would overwrite the usual file.
  if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then
    install -D -m 644 "$(readlink -f /etc/ssl/certs/ca-certificates.crt)" "$root$certificates"
    echo "Acquire::https::CaInfo \"$certificates\";" >>"$settings"
  fi
  [[ ! -e $root/etc/pip.conf ]] || sed -i "s#^\(cert *=\).*#\1 $certificates#" "$root/etc/pip.conf"
}

bind() { mkdir -p "$root$2" && mount --rbind "$1" "$root$2"; }

environment=(LANG=C.UTF-8 TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
pass_environment() {
  local name
  for name in $(compgen -e); do
    case $name in
      PIP_CERT | PIP_FIND_LINKS | LibTorch_ROOT) ;;
      CI | LOCKSTEP_* | PIP_* | CCACHE_MAXSIZE | *_proxy | *_PROXY) environment+=("$name=${!name}") ;;
    esac
  done
  [[ ! -e $root$certificates ]] || environment+=("PIP_CERT=$certificates")
}

# inside USER HOME COMMAND ...: in the checkout of the root.
inside() {
  local user=$1 home=$2
  shift 2
  env -i "${environment[@]}" HOME="$home" chroot --userspec="$user" "$root" /bin/bash -c 'cd "$1" && shift && exec "$@"' bash "$checkout" "$@"
}

# What set-up prints for root is done by root; then the user starts again.
run_as_user() {
  local home=/home/newcomer log told
  chroot "$root" useradd --create-home newcomer
  mkdir -p "$root$checkout"
  git clone -q "$checkout" "$root$checkout"
  chroot "$root" chown -R newcomer: "$checkout"
  bind "$cache" "$home/.cache/ccache"
  environment+=(CCACHE_READONLY=1 CCACHE_TEMPDIR=/tmp)
  log=$root/tmp/first_run
  inside newcomer "$home" "$@" 2>&1 | tee "$log" && return 0
  told=$(sed -n 's/.*run this once, then start again: *//p' "$log")
  [[ -n $told ]] || return 1
  inside root /root bash -c "${told//sudo /}" >"$root/tmp/apt.log" 2>&1 || { tail -n 20 "$root/tmp/apt.log" >&2; return 1; }
  inside newcomer "$home" "$@"
}

# run_inside ROOT [--user] COMMAND ...: in a mount namespace of its own, so that no mount is seen outside.
run_inside() {
  root=$1
  shift
  mount --bind "$root" "$root"  # "/" must be a mount for the mount namespaces that are made inside
  configure_network
  pass_environment
  for folder in proc sys dev; do bind "/$folder" "/$folder"; done
  cache=${CCACHE_DIR:-$HOME/.cache/ccache}
  mkdir -p "$cache"
  if [[ $1 == --user ]]; then
    run_as_user "${@:2}"
  else
    bind "$checkout" "$checkout"
    bind "$cache" /root/.cache/ccache
    mkdir -p "$HOME/.cache/pip"
    bind "$HOME/.cache/pip" /root/.cache/pip
    inside root /root "$@"
  fi
}

if [[ ${1:-} == --inside ]]; then
  run_inside "${@:2}"
  exit
fi
[[ $# -ge 1 && $* != --user ]] || fail "which command? The comment at the top of $0 has the usage"
check
make_kept
[[ $1 != --check ]] || exit 0
# One start at a time: a copy of another one that is not locked yet would look like one that is left over.
exec 8>"$(dirname "$kept")/start.lock"
flock 8
# What a run left that was killed: a copy whose lock nobody holds.
for left in "$(dirname "$kept")"/run.*.lock; do
  [[ -e $left ]] || continue
  flock --nonblock "$left" rm -rf --one-file-system "${left%.lock}" "$left" || true
done
copy=$(mktemp -d "$(dirname "$kept")/run.XXXXXX")
exec 9>"$copy.lock"
flock 9
exec 8>&-
trap 'rm -rf --one-file-system "$copy" "$copy.lock"' EXIT  # out here nothing is mounted in it
chmod 755 "$copy"
cp -a --reflink=auto "$kept/." "$copy/"
unshare --mount --propagation private "$0" --inside "$copy" "$@"
