#!/usr/bin/env bash
# Before the service starts: if somebody else has its camera open, the journal says who. Only root can see that.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# device_of SOURCE: the camera's file, or nothing.
device_of() {
    local source=$1
    case $source in
    v4l2://*) source=${source#v4l2://} && echo "${source%%\?*}" ;;
    /dev/*) echo "$source" ;;
    *) [[ ! $source =~ ^[0-9]+$ ]] || echo "/dev/video$source" ;;
    esac
}

# holders DEVICE: "NAME (pid N)" of every process that has it open.
holders() {
    local wanted descriptor pid
    wanted=$(realpath -e "$1" 2>/dev/null) || return 0
    for descriptor in /proc/[0-9]*/fd/*; do
        [[ $(readlink "$descriptor" 2>/dev/null) == "$wanted" ]] || continue
        pid=${descriptor#/proc/}
        pid=${pid%%/*}
        echo "$(cat "/proc/$pid/comm" 2>/dev/null) (pid $pid)"
    done | sort -u
}

source=${1:-$(/opt/edge/current/bin/python "$HERE/configured.py" source "")}
device=$(device_of "$source")
[[ -n $device ]] || exit 0
found=$(holders "$device" | paste -sd, | sed 's/,/, /g')
if [[ -n $found ]]; then
    # <4>: a warning, in the journal's eyes.
    echo "<4>$device is open in $found; if the camera is busy, stop that, then: sudo systemctl restart edge"
fi
