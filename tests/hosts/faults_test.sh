#!/usr/bin/env bash
# faults_test.sh FAULT HOSTS PROGRAM START ...: while ranks train on hosts with so many ranks (2,1), something happens to one
# of the hosts. Each rank that survives must end with an error that names a rank and its host. All STARTs run side by side.
#
# FAULT: cut    its cable is cut; neither side is told
#        brief  the same, where calls have a short timeout
#        dead   all its processes are killed at once; its kernel closes their connections
#        off    it is switched off, so that nobody is told
#        late   its ranks stop for longer than the timeout of a call; then they go on, and must end as well
# START: ranks (as torchrun starts them), mpirun, continuous (mpirun --continuous). PROGRAM: fault_rank.
# Exit status 77 where this machine cannot make hosts.
set -uo pipefail
self=$(readlink -f "${BASH_SOURCE[0]}")
hosts=${self%/tests/hosts/*}/tools/hosts.sh
# Far longer than anything takes, also on a busy machine, and shorter than the long timeout of a call.
patience=200 long_timeout=300

wrong() { echo "faults_test: $*" >&2; return 1; }
fail() {
  wrong "$*"
  tail -n +1 "$folder"/saw.* "$folder/output" >&2
  echo "processes: $(cat /proc/[0-9]*/stat 2>/dev/null | cut -d' ' -f1-4 | paste -sd';')" >&2
  exit 1
}

# until_there CLAIM COMMAND ...: waits until the command succeeds.
until_there() {
  local claim=$1 end=$((SECONDS + patience))
  shift
  until "$@"; do
    ((SECONDS < end)) || fail "not within $patience s: $claim"
    sleep 0.1
  done
}

have_all() { # WHAT RANK ...: whether all these ranks have written it
  local rank
  for rank in "${@:2}"; do [[ -e $folder/$1.$rank ]] || return 1; done
}
# A launcher may leave a rank that has ended as it is (Z) while it waits for others.
no_rank_is_left() {
  local stat fields
  for stat in /proc/[0-9]*/stat; do
    stat=$(cat "$stat" 2>/dev/null)
    [[ $stat == *'(fault_rank)'* ]] || continue
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} == Z && ${fields[17]} == 1 ]] || return 1 # the last: the number of threads
  done
}

# Sets hosts_of: the host of each rank.
find_hosts() {
  local n ranks
  read -ra ranks <<<"$LOCKSTEP_HOSTS"
  hosts_of=()
  for ((n = 1; n <= ${#ranks[@]}; n++)); do
    while ((ranks[n - 1]-- > 0)); do hosts_of+=("$n"); done
  done
}

# start START PROGRAM TIMEOUT: the ranks train when it returns.
start() {
  local command=(ranks)
  # mpirun that has lost a host asks the ranks to end, and kills them after so many seconds.
  [[ $1 == ranks ]] || command=(mpirun --mca odls_base_sigkill_timeout "$patience")
  [[ $1 != continuous ]] || command+=(--continuous)
  folder=$(mktemp -d -p "$folders")
  "$hosts" "${command[@]}" "$2" "$folder" "$3" >"$folder/output" 2>&1 &
  launcher=$!
  until_there 'all ranks train' have_all training "${!hosts_of[@]}"
}

ranks_of_host() { # HOST: their process ids
  local rank
  for rank in "${!hosts_of[@]}"; do
    [[ ${hosts_of[rank]} != "$1" ]] || cat "$folder/training.$rank"
  done
}

make_fault() { # FAULT HOST
  case $1 in
    cut | brief) "$hosts" cut "$2" ;;
    dead) "$hosts" kill "$2" ;;
    off) "$hosts" cut "$2" && "$hosts" kill "$2" ;;
    late) mapfile -t late < <(ranks_of_host "$2") && kill -STOP "${late[@]}" ;;
  esac
}

# check FAULT RANK HOST: what it saw names a rank on the other side of the fault, with its host.
check() {
  local fault=$1 rank=$2 host=$3 other pattern=''
  for other in "${!hosts_of[@]}"; do
    [[ $((hosts_of[rank] == host)) != $((hosts_of[other] == host)) ]] || continue
    pattern+="${pattern:+|}rank $other on h${hosts_of[other]}\>"
  done
  # For late ranks of one host, those beside them are late as well.
  [[ $fault != late || ${hosts_of[rank]} != "$host" ]] || pattern+="|\(pid [0-9]+ on h$host\>"
  grep -qE "$pattern" "$folder/saw.$rank" || wrong "rank $rank does not name the rank and its host ($pattern)" || return
  ! grep -qE 'rank [0-9]+ gave up' "$folder/saw.$rank" || wrong "rank $rank names another one without its host" || return
  ! grep -v 'gave up' "$folder/saw.$rank" | grep -E "rank $rank on h[0-9]+ has not arrived" || wrong "rank $rank says that it is missing itself"
}

# run FAULT START HOST PROGRAM TIMEOUT: false where something is wrong, which may be that the timeout was too short for this
# machine.
run() {
  local fault=$1 host=$3 rank survivors=() result=0
  start "$2" "$4" "$5"
  make_fault "$fault" "$host"
  for rank in "${!hosts_of[@]}"; do
    [[ $fault != cut && $fault != brief && ${hosts_of[rank]} == "$host" ]] || survivors+=("$rank")
  done
  until_there 'all survivors see it' have_all saw "${survivors[@]}"
  if [[ $fault == late ]]; then
    kill -CONT "${late[@]}"
    survivors=("${!hosts_of[@]}")
    until_there 'the late ranks see it' have_all saw "${survivors[@]}"
  fi
  touch "$folder/end"
  until_there 'the ranks end' no_rank_is_left
  kill "$launcher" 2>/dev/null
  for rank in "${survivors[@]}"; do check "$fault" "$rank" "$host" || result=1; done
  [[ $fault != late && $fault != brief ]] || grep -q 'timed out' "$folder"/saw.* || wrong 'no rank timed out' || result=1
  return "$result"
}

inside() { # FAULT HOSTS PROGRAM START
  local timeouts=("$long_timeout") timeout host=2
  folders=$(mktemp -d)
  trap 'rm -rf "$folders"' EXIT
  find_hosts
  # The host on which the store of such a start is, once.
  [[ $4/$2 != ranks/2,1 ]] || host=1
  [[ $1 != late ]] || timeouts=(4 8 16 32 64)
  # Sooner than the kernel's probes, 15 seconds, find the cut.
  [[ $1 != brief ]] || timeouts=(4 8 12 12 12)
  for timeout in "${timeouts[@]}"; do
    if run "$1" "$4" "$host" "$3" "$timeout"; then
      echo "faults_test: $* passed after $SECONDS s; timeout: $timeout s"
      tail -n +1 "$folder"/saw.*
      return
    fi
    "$hosts" mend "$host"
  done
  fail 'no timeout was long enough'
}

(($# > 3)) || { wrong "usage: FAULT HOSTS PROGRAM START ..."; exit 2; }
if [[ $1 == --inside ]]; then
  inside "${@:2}"
  exit
fi
processes=() result=0
for start in "${@:4}"; do
  "$hosts" "$2" run "$self" --inside "${@:1:3}" "$start" &
  processes+=($!)
done
for process in "${processes[@]}"; do
  wait "$process" || { status=$? && ((result == 0 || result == 77)) && result=$status; }
done
exit "$result"
