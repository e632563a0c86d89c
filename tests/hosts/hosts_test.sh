#!/usr/bin/env bash
# Tests of tools/hosts.sh: what a host has for itself, what limits its link, and what is left when a run ends.
# Exit status 77 where this machine cannot make hosts.
set -uo pipefail
hosts=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/tools/hosts.sh
failures=0

# expect CLAIM EXPECTED FOUND
expect() {
  [[ $3 == "$2" ]] && return 0
  printf 'hosts_test: %s: expected "%s", found "%s"\n' "$1" "$2" "$3" >&2
  failures=$((failures + 1))
}

# A busy machine takes long to start and to end the processes of a run.
patience=60

processes_with() { grep -lsz "^$1$" /proc/[0-9]*/environ; } # MARKER: a variable that they have

until_none_is_left() {
  local end=$((SECONDS + patience))
  while grep -qsz "^$1$" /proc/[0-9]*/environ && ((SECONDS < end)); do sleep 0.05; done
}

status_of() {
  "$@" >/dev/null 2>&1
  echo $?
}

# What is seen from inside one run on three hosts, of which the second has a slower link.
inside() {
  expect 'host name' h2 "$("$hosts" on 2 hostname)"
  expect 'address of the third host, on the first' '10.77.0.3 h3' "$("$hosts" on 1 getent hosts h3 | tr -s ' ')"
  expect 'this folder on a host' "$PWD" "$("$hosts" on 1 pwd)"
  "$hosts" on 1 touch /dev/shm/mine
  expect '/dev/shm of another host' '' "$("$hosts" on 2 ls /dev/shm)"
  expect 'rate of a link' 'rate 1Gbit' "$("$hosts" on 1 tc qdisc show dev eth0 | grep -o 'rate [0-9]*[A-Za-z]*')"
  expect 'rate of one link, as it was set for it' 'rate 50Mbit' "$("$hosts" on 2 tc qdisc show dev eth0 | grep -o 'rate [0-9]*[A-Za-z]*')"
  expect 'its other direction' 'rate 50Mbit' "$(tc qdisc show dev port2 | grep -o 'rate [0-9]*[A-Za-z]*')"
  expect 'a closed port of a host' 1 "$(status_of "$hosts" on 1 timeout 60 bash -c '</dev/tcp/h3/9')"
  "$hosts" cut 3
  expect 'the same where its cable is cut' 124 "$(status_of "$hosts" on 1 timeout 1 bash -c '</dev/tcp/h3/9')"
  "$hosts" mend 3
  expect 'the same where it is mended' 1 "$(status_of "$hosts" on 1 timeout 60 bash -c '</dev/tcp/h3/9')"
  "$hosts" on 3 bash -c 'touch /dev/shm/up; exec sleep 1000' 2>/dev/null &
  local killed=$!
  until "$hosts" on 3 test -e /dev/shm/up; do sleep 0.01; done
  "$hosts" kill 3
  expect 'a process of a host that was killed' 137 "$(wait $killed 2>/dev/null; echo $?)"
  expect 'a killed host starts processes' h3 "$("$hosts" on 3 hostname)"
  # shellcheck disable=SC2016  # for the ranks
  expect 'ranks as torchrun starts them' 'h1 0/3 0/1 h1,h2 1/3 0/1 h1,h3 2/3 0/1 h1' \
    "$("$hosts" ranks bash -c 'echo "$(hostname) $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR"' | sort | paste -sd,)"
  # A rank that fails ends the others, not only the shells that have started them.
  local marker=LOCKSTEP_HOSTS_FAILED=$$ left
  # shellcheck disable=SC2016  # for the ranks
  expect 'exit status of ranks of which one fails' 5 \
    "$(LOCKSTEP_HOSTS_WAIT_S=0 status_of env "$marker" "$hosts" ranks bash -c '((RANK == 1)) || exec sleep 1000; exit 5')"
  until_none_is_left "$marker"
  mapfile -t left < <(processes_with "$marker")
  expect 'ranks that are left of those' '' "${left[*]}"
  return "$failures"
}

if [[ ${1:-} == --inside ]]; then
  inside
  exit
fi

export PATH=$PATH:/usr/sbin:/sbin # of tc
reason=$("$hosts" 1x1 run true 2>&1)
case $? in
  77) echo "$reason"; exit 77 ;;
  0) ;;
  *) expect 'a run of a command that does nothing' '' "$reason" ;;
esac
expect 'a run on three hosts' 0 "$("$hosts" 3x1 --rate 1gbit --rate 2:50mbit run "$0" --inside >&2; echo $?)"
# shellcheck disable=SC2016  # for the ranks
expect 'hosts of two ranks and of one' '0/1 h2,0/2 h1,1/2 h1' \
  "$("$hosts" 2,1 ranks bash -c 'echo "$LOCAL_RANK/$LOCAL_WORLD_SIZE $(hostname)"' | sort | paste -sd,)"
# shellcheck disable=SC2016  # for the ranks
expect 'exit status of the rank that failed' 5 "$(status_of "$hosts" 2x1 ranks bash -c 'exit $((RANK * 5))')"
expect 'exit status for a wrong layout' 2 "$(status_of "$hosts" 2y1 run true)"
expect 'exit status for a wrong rate' 2 "$(status_of "$hosts" 2x1 --rate fast run true)"
expect 'exit status without a run around it' 2 "$(status_of "$hosts" on 1 true)"
expect 'what a command reads' input "$(echo input | "$hosts" 1x1 run cat)"
expect 'two runs at once' '0 0' "$("$hosts" 2x1 ranks true & first=$!; "$hosts" 2x1 ranks true; second=$?; wait $first; echo "$? $second")"

# A run that is killed leaves no process.
marker=LOCKSTEP_HOSTS_TEST=$$
for signal in TERM KILL; do
  env "$marker" "$hosts" 2x1 ranks sleep 600 2>/dev/null &
  end=$((SECONDS + patience))
  until (($(processes_with "$marker" | wc -l) >= 7)) || ((SECONDS >= end)); do sleep 0.05; done
  ((SECONDS < end)) || expect 'a run that is to be killed' started 'not started'
  { kill -"$signal" $! && wait $!; } 2>/dev/null
  until_none_is_left "$marker"
  mapfile -t left < <(processes_with "$marker")
  expect "processes that a run left after SIG$signal" '' "${left[*]}"
  for process in "${left[@]//[^0-9]/}"; do kill -KILL "$process" 2>/dev/null; done
done
((failures == 0)) && echo "hosts_test: as it should be"
exit $((failures != 0))
