#!/bin/sh
# Runs one fuzz target on one core for FUZZTIME: fuzz.sh DIRECTORY TARGET. It prints a line, or all when it fails.
# Before Go 1.27, go test may report the end of FUZZTIME itself as a failure, "context deadline exceeded", although no
# input failed (https://go.dev/issue/75804). Such a run counts as none and is repeated, twice at most.
tries=3
while :; do
  if out=$(go -C "$1" test -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 500x -parallel 1 . 2>&1); then
    echo "ok $1 $2: $(echo "$out" | grep 'execs:' | tail -1 | sed 's/^fuzz: //')"
    exit
  fi
  tries=$((tries - 1))
  # go test indents what a target reports; a failing input adds lines to the one of the deadline
  reported=$(echo "$out" | sed -n 's/^    *//p')
  if [ "$tries" = 0 ] || [ "$reported" != "context deadline exceeded" ]; then break; fi
done
echo "FAILED $1 $2"
echo "$out"
exit 1
