#!/usr/bin/env bash
# The longer a service fails, the longer it waits before the next try: 1, 2, 4 ... 60 seconds, as systemd itself can
# only from 254 on (RestartSteps=; JetPack 6 has 249). "before" waits; "after" counts, from what systemd tells it.
set -euo pipefail

FILE=${RUNTIME_DIRECTORY:-/run/edge}/failures
LONGEST_S=60
# A run of this length was none of a series.
HEALTHY_S=600

count() { cat "$FILE" 2>/dev/null || echo 0; }

before() {
    local failures wait_s
    failures=$(count)
    if ((failures > 0)); then
        wait_s=$((failures > 6 ? LONGEST_S : 1 << (failures - 1)))
        echo "<4>failed $failures times in a row; next try in $wait_s s"
        sleep "$wait_s"
    fi
    date +%s >"$FILE.began"
}

after() {
    local began now
    began=$(cat "$FILE.began" 2>/dev/null || echo 0)
    now=$(date +%s)
    if [[ ${SERVICE_RESULT:-success} == success ]]; then
        rm -f "$FILE"
    elif ((began > 0 && now - began >= HEALTHY_S)); then
        echo 1 >"$FILE"
    else
        echo $(($(count) + 1)) >"$FILE"
    fi
}

case ${1:-} in
before | after) "$1" ;;
*)
    echo "back-off.sh: expected before or after" >&2
    exit 2
    ;;
esac
