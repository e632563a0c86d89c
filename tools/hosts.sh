#!/usr/bin/env bash
# Several hosts on one machine, so that tests and benchmarks use a network: namespaces of the kernel, each with a host name,
# a network interface (eth0) and a /dev/shm of its own, joined by a bridge.
#
#   tools/hosts.sh HOSTS [OPTION ...] mpirun PROGRAM ...   starts the ranks by Open MPI's mpirun on the first host
#   tools/hosts.sh HOSTS [OPTION ...] ranks PROGRAM ...    starts the ranks as torchrun does, without a launcher or MPI
#   tools/hosts.sh HOSTS [OPTION ...] run COMMAND ...      runs COMMAND beside the hosts; it may call the forms below
#
#   tools/hosts.sh mpirun PROGRAM ...    inside `run`: as above, on the hosts that are there
#   tools/hosts.sh ranks PROGRAM ...
#   tools/hosts.sh on N COMMAND ...      inside `run`: runs COMMAND on host N
#   tools/hosts.sh cut N                 inside `run`: cuts the cable of host N: packets get lost, and no side is told
#   tools/hosts.sh mend N                inside `run`: mends it
#   tools/hosts.sh kill N                inside `run`: kills all processes of host N at once
#
# HOSTS says how many ranks each host has: 2x1 is two hosts with one rank each, and 2,1 is a host with two ranks and a host
# with one. The hosts are called h1, h2, ... and have the addresses 10.77.0.1, 10.77.0.2, ...
#
#   --rate RATE       of each link in each direction, as tc writes it: 1gbit, 10gbit (default: none, as fast as memory)
#   --rate N:RATE     of the link of host N
#   --delay TIME      of each message, on each link in each direction: 1ms. Needs netem in the kernel
#   --loss PERCENT    of the packets on each link, in each direction: 0.1%. Needs netem in the kernel
#
# After a rank has failed, `ranks` waits until the others have ended as well, and ends them after LOCKSTEP_HOSTS_WAIT_S seconds
# (default: 2).
#
# The exit status is that of the program or command; 77 where this machine cannot make hosts, with one line that says why.
# The hosts and everything that runs on them end with this script, however it ends, and leave nothing behind: all of them
# are in namespaces of this run, and no process outside sees their bridge, their mounts or their /etc/hosts.
set -euo pipefail
self=$(readlink -f "${BASH_SOURCE[0]}")
PATH=$PATH:/usr/sbin:/sbin
subnet=10.77.0

skip() { echo "hosts: skipped: $*" >&2; exit 77; }
misuse() { echo "hosts: error: $* (the top of tools/hosts.sh has the usage)" >&2; exit 2; }

# ranks_of HOSTS: the number of ranks of each host, as words.
ranks_of() {
  local number='[1-9][0-9]?' n words=()
  if [[ $1 =~ ^($number)x($number)$ ]]; then
    for ((n = 0; n < BASH_REMATCH[1]; n++)); do words+=("${BASH_REMATCH[2]}"); done
  elif [[ $1 =~ ^$number(,$number)*$ ]]; then
    IFS=, read -ra words <<<"$1"
  else
    misuse "HOSTS is '$1'; it must be as in 2x1, or as in 2,1"
  fi
  echo "${words[*]}"
}

# parse HOSTS [OPTION ...] FORM COMMAND ...: sets LOCKSTEP_HOSTS, rate, delay, loss, rates and command.
parse() {
  LOCKSTEP_HOSTS=$(ranks_of "$1")
  shift
  rate='' delay='' loss=''
  declare -gA rates=()
  while [[ ${1:-} == --* ]]; do
    (($# >= 2)) || misuse "$1 needs a value"
    case $1 in
      --rate) if [[ $2 == *:* ]]; then rates[${2%%:*}]=${2#*:}; else rate=$2; fi ;;
      --delay) delay=$2 ;;
      --loss) loss=$2 ;;
      *) misuse "'$1' is no option" ;;
    esac
    shift 2
  done
  for each in "$rate" "${rates[@]}"; do
    [[ $each =~ ^([1-9][0-9]*[kmg]bit|none|)$ ]] || misuse "--rate is '$each'; it must be as in 10gbit, or none"
  done
  command=("$@")
  [[ ${1:-} =~ ^(mpirun|ranks|run)$ && $# -ge 2 ]] || misuse "after HOSTS and options come mpirun, ranks or run, and a command"
}

# Where all hosts are. The process is the first of a process-id namespace, so all that it started ends with it.
in_namespaces() {
  local flags=(--net --mount --pid --fork --kill-child --mount-proc) program why
  for program in ip tc unshare nsenter setpriv mount hostname; do
    command -v "$program" >/dev/null || skip "this machine has no $program"
  done
  ((EUID == 0)) || flags+=(--user --map-root-user)
  why=$(unshare "${flags[@]}" true 2>&1) || skip "this machine makes no namespaces: ${why%%$'\n'*}"
  # In the background, a process would lose its input, and its children would ignore an interrupt.
  env --default-signal=INT,QUIT setpriv --pdeathsig KILL unshare "${flags[@]}" "$self" --inside "$@" <&0 &
  # unshare blocks these signals. The process in the namespaces dies with it.
  # shellcheck disable=SC2064  # this number
  trap "kill -KILL $!" INT TERM HUP
  wait $!
}

# become N COMMAND ...: this process goes to host N and is the command, in this folder.
become() {
  local holders
  read -ra holders <<<"$LOCKSTEP_HOST_PROCESSES"
  exec nsenter --target "${holders[$1 - 1]}" --net --uts --ipc --mount --root -- env --chdir="$PWD" "${@:2}"
}

# on N COMMAND ...: on host N, in this folder.
on() { (become "$@"); }

# kill_host N: all but the process that keeps the host's namespaces.
kill_host() {
  local holders processes process network
  read -ra holders <<<"$LOCKSTEP_HOST_PROCESSES"
  network=$(readlink "/proc/${holders[$1 - 1]}/ns/net")
  while true; do
    processes=()
    for process in /proc/[0-9]*; do
      process=${process#/proc/}
      [[ $process != "${holders[$1 - 1]}" && $(readlink "/proc/$process/ns/net") == "$network" ]] || continue
      [[ $(cat "/proc/$process/stat" 2>/dev/null) == *') Z '* ]] || processes+=("$process") # Z: it has ended
    done
    ((${#processes[@]} > 0)) || return 0
    kill -KILL "${processes[@]}" 2>/dev/null || true
  done
}

# A millisecond of traffic may pass at once, and 128 KiB at least: what a network card hands over as one packet is 64 KiB.
burst_of() {
  local kilobit=${1%?bit}
  case $1 in
    *mbit) kilobit=$((kilobit * 1000)) ;;
    *gbit) kilobit=$((kilobit * 1000000)) ;;
  esac
  echo $((kilobit / 8 > 131072 ? kilobit / 8 : 131072))
}

# shape DEVICE RATE COMMAND ...: limits what leaves by the device; tc is called through COMMAND.
shape() {
  local device=$1 rate=$2 netem parent=(root)
  shift 2
  if [[ -n $rate && $rate != none ]]; then
    "$@" tc qdisc add dev "$device" root handle 1: tbf rate "$rate" burst "$(burst_of "$rate")" latency 50ms 2>/dev/null ||
      skip "this kernel cannot limit the rate of a link (tbf)"
    parent=(parent 1:1)
  fi
  [[ -n $delay$loss ]] || return 0
  netem=(netem limit 100000 ${delay:+delay "$delay"} ${loss:+loss "$loss"})
  "$@" tc qdisc add dev "$device" "${parent[@]}" handle 10: "${netem[@]}" 2>/dev/null ||
    skip "this kernel cannot delay or lose packets (netem)"
}

# add_host N: appends the process that keeps the host's namespaces to LOCKSTEP_HOST_PROCESSES.
add_host() {
  local n=$1 holder line
  exec {line}< <(exec unshare --net --uts --ipc --mount bash -c 'echo up && exec sleep infinity')
  holder=$!
  read -r -u "$line" || skip "this machine makes no namespaces for a host"
  LOCKSTEP_HOST_PROCESSES+=" $holder"
  ip link add "port$n" type veth peer name eth0 netns "$holder" || skip "this kernel makes no pair of interfaces (veth)"
  ip link set "port$n" master bridge up
  on "$n" bash -euc "hostname h$n; mount -t tmpfs tmpfs /dev/shm; ip link set lo up; ip link set eth0 up
                     ip address add $subnet.$n/24 dev eth0"
  shape "port$n" "${rates[$n]:-$rate}"
  shape eth0 "${rates[$n]:-$rate}" on "$n"
}

add_hosts() {
  local n ranks
  read -ra ranks <<<"$LOCKSTEP_HOSTS"
  mount -t tmpfs tmpfs /dev/shm || skip "this machine mounts nothing"
  {
    echo 127.0.0.1 localhost
    for ((n = 1; n <= ${#ranks[@]}; n++)); do echo "$subnet.$n h$n"; done
  } >/dev/shm/hosts
  mount --bind /dev/shm/hosts /etc/hosts || skip "there is no /etc/hosts to replace"
  ip link set lo up
  ip link add bridge type bridge || skip "this kernel has no bridge"
  ip link set bridge up
  LOCKSTEP_HOST_PROCESSES=
  for ((n = 1; n <= ${#ranks[@]}; n++)); do add_host "$n"; done
  export LOCKSTEP_HOSTS LOCKSTEP_HOST_PROCESSES
}

# The session directory of Open MPI lies in the host's own memory, so hosts of one name in two runs share none.
start_mpirun() {
  local ranks list='' n total=0
  read -ra ranks <<<"$LOCKSTEP_HOSTS"
  for ((n = 1; n <= ${#ranks[@]}; n++)); do
    list+=",h$n:${ranks[n - 1]}"
    total=$((total + ranks[n - 1]))
  done
  PATH=${self%/*}:$PATH OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 on 1 mpirun -n "$total" --host "${list#,}" \
    --oversubscribe --bind-to none --mca plm_rsh_agent "${self##*/} agent" --mca orte_tmpdir_base /dev/shm \
    --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 --mca btl_vader_single_copy_mechanism none "$@"
}

start_ranks() {
  local ranks processes=() n local_rank status=0 end left
  read -ra ranks <<<"$LOCKSTEP_HOSTS"
  export WORLD_SIZE=$((${LOCKSTEP_HOSTS// /+})) MASTER_ADDR=h1 MASTER_PORT=${MASTER_PORT:-29500}
  for ((n = 1; n <= ${#ranks[@]}; n++)); do
    for ((local_rank = 0; local_rank < ranks[n - 1]; local_rank++)); do
      # The process is the rank itself, so that a signal reaches it.
      RANK=${#processes[@]} LOCAL_RANK=$local_rank LOCAL_WORLD_SIZE=${ranks[n - 1]} become "$n" "$@" &
      processes+=($!)
    done
  done
  for n in "${processes[@]}"; do
    wait -n || { status=$?; break; }
  done
  if ((status != 0)); then
    # So that the others can say which rank they missed.
    end=$((SECONDS + ${LOCKSTEP_HOSTS_WAIT_S:-2}))
    left=$(jobs -pr)
    while [[ -n $left ]] && ((SECONDS <= end)); do
      sleep 0.05
      left=$(jobs -pr)
    done
    mapfile -t processes <<<"$left"
    [[ -z $left ]] || kill "${processes[@]}" 2>/dev/null || true
  fi
  return "$status"
}

run_on_hosts() {
  case $1 in
    mpirun) start_mpirun "${@:2}" ;;
    ranks) start_ranks "${@:2}" ;;
    run) "${@:2}" ;;
  esac
}

case ${1:-} in
  --inside)
    parse "${@:2}"
    add_hosts
    run_on_hosts "${command[@]}"
    ;;
  mpirun | ranks | on | cut | mend | kill | agent)
    [[ -n ${LOCKSTEP_HOST_PROCESSES:-} ]] || misuse "$1 without HOSTS is for commands of 'HOSTS run'"
    case $1 in
      agent) on "${2#h}" bash -c "${*:3}" ;; # mpirun calls it as ssh: host, command
      on) on "${@:2}" ;;
      cut) ip link set "port$2" nomaster ;;
      mend) ip link set "port$2" master bridge ;;
      kill) kill_host "$2" ;;
      *) run_on_hosts "$@" ;;
    esac
    ;;
  *)
    (($# > 0)) || misuse "HOSTS is missing"
    parse "$@"
    in_namespaces "$@"
    ;;
esac
