#!/usr/bin/env bash
# Run a command again after a failure that may pass, such as a host that died: the same rlhf command continues from its
# last checkpoint. On several hosts each runs this, and the processes meet again.
#
#   restart.sh rlhf sft --distributed auto --out /runs/mine ...
#
# Not after 0 (done), 2 (a mistake in the command), 130 or 143 (stopped). RESTARTS: how often at most. PAUSE: seconds
# before the first; it doubles up to a minute, below the five that processes wait for each other. A run that lasted ten
# minutes has come further, and the count begins anew.
set -u
restarts=${RESTARTS:-20} first=${PAUSE:-5} longest=60 enough=600

if [ $# -eq 0 ]; then
  echo "usage: restart.sh COMMAND..." >&2
  exit 2
fi

child='' stopped=''
pass_on() {
  stopped=yes
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap pass_on TERM INT

count=0 pause=$first
while :; do
  began=$SECONDS
  "$@" &
  child=$!
  wait "$child"
  status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ends wait, not the command
    wait "$child"
    status=$?
  done
  child=''
  case $status in 0 | 2 | 130 | 143) exit "$status" ;; esac
  if [ -n "$stopped" ]; then exit "$status"; fi
  if [ $((SECONDS - began)) -ge "$enough" ]; then count=0 pause=$first; fi
  count=$((count + 1))
  if [ "$count" -gt "$restarts" ]; then
    echo "restart.sh: status $status, and it was started again $restarts times: it stays so" >&2
    exit "$status"
  fi
  echo "restart.sh: status $status, again in $pause s ($count of $restarts)" >&2
  sleep "$pause" &
  wait $! # so that a signal is heard
  if [ -n "$stopped" ]; then exit 143; fi
  pause=$((pause * 2 < longest ? pause * 2 : longest))
done
