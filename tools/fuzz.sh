#!/bin/sh
# Runs one fuzz target on one core for FUZZTIME: fuzz.sh DIRECTORY TARGET. It prints a line, or all when it fails.
if out=$(go -C "$1" test -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 500x -parallel 1 . 2>&1); then
  echo "ok $1 $2: $(echo "$out" | grep 'execs:' | tail -1 | sed 's/^fuzz: //')"
else
  echo "FAILED $1 $2"
  echo "$out"
  exit 1
fi
