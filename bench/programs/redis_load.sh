#!/bin/bash
# Loads the redis-server behind a unix socket: redis_load.sh SOCKET REQUESTS. Prints what the data
# set looks like afterwards and stops the server. The benchmark picks keys at random, but each of
# them 25 times over, so that all of them exist in the end and the answers are always the same.
set -euo pipefail
socket=$1 requests=$(($2 / 400 * 400))
keys=$((requests / 25))

ask() { redis-cli -s "$socket" "$@"; }
load() { redis-benchmark -s "$socket" -q -c 8 -P 16 -r "$keys" -n "$requests" "$@" >/dev/null; }
text() { head -c "$1" /dev/zero | tr '\0' x; }

for _ in {1..500}; do
    if ask ping >/dev/null 2>&1; then break; fi
    sleep 0.01
done

load set key:__rand_int__ "$(text 100)"
load hset hash field:__rand_int__ "$(text 40)"
load sadd set:__rand_int__ member
load rpush list "$(text 60)"
load get key:__rand_int__
load append key:__rand_int__ "$(text 20)"
load lrange list 0 20
load set key:__rand_int__ "$(text 300)"

ask dbsize
ask hlen hash
ask llen list
ask strlen key:000000000001
ask shutdown nosave >/dev/null 2>&1 || true
