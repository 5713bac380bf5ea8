#!/usr/bin/env bash
# Power mode and clocks as /etc/edge/power.conf has them; what was before is kept, and comes back with "restore".
set -euo pipefail

# shellcheck disable=SC2034  # say.sh uses it
PROGRAM=power.sh
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LIB=$HERE/lib
[[ -d $LIB ]] || LIB=$HERE/../lib
# shellcheck source=jetson/lib/say.sh
source "$LIB/say.sh"

CONFIG=/etc/edge/power.conf
KEPT=/var/lib/edge
# Modes by name and number, as this board has them.
MODES=/etc/nvpmodel.conf

main() {
    case ${1:-} in
    apply) apply ;;
    restore) restore ;;
    *) refuse "expected apply or restore; type: power.sh apply" ;;
    esac
}

# set_to KEY: a value of the configuration. The file is read, never executed.
set_to() { sed -nE "s/^ *$1 *= *\"?([^\"#]*[^\"# ])\"? *(#.*)?$/\1/p" "$CONFIG" | tail -n 1; }

apply() {
    [[ -r $CONFIG ]] || refuse "$CONFIG can't be read; run jetson/provision.sh again"
    local mode clocks id
    mode=$(set_to MODE)
    clocks=$(set_to CLOCKS)
    [[ ${clocks:-board} == fixed || ${clocks:-board} == board ]] ||
        refuse "$CONFIG: CLOCKS = $clocks; expected fixed or board"
    if [[ -n $mode ]]; then
        id=$(id_of "$mode")
        need_tool nvpmodel
        keep_mode
        set_mode "$id"
    fi
    if [[ $clocks == fixed ]]; then
        need_tool jetson_clocks
        # After a reboot clocks are the board's own again, so what is kept is never what this script set.
        [[ -e $KEPT/clocks.before ]] || jetson_clocks --store "$KEPT/clocks.before"
        jetson_clocks
        say "clocks fixed at the mode's highest"
    fi
}

need_tool() {
    command -v "$1" >/dev/null || refuse "$1 is absent, and $CONFIG asks for it; type: sudo apt install nvidia-l4t-tools, or leave MODE and CLOCKS out"
}

# id_of MODE: its number; numbers differ from board to board, names less so.
id_of() {
    local id known
    if [[ $1 =~ ^[0-9]+$ ]]; then
        echo "$1"
        return
    fi
    id=$(sed -nE "s/^< *POWER_MODEL +ID=([0-9]+) +NAME=$1 *>.*/\1/p" "$MODES" 2>/dev/null | head -n 1)
    known=$(sed -nE 's/^< *POWER_MODEL +ID=[0-9]+ +NAME=([^ >]+).*/\1/p' "$MODES" 2>/dev/null | paste -sd' ' || true)
    [[ -n $id ]] || refuse "$CONFIG: MODE = $1 is no mode of this board; expected one of: ${known:-(none is listed in $MODES)}"
    echo "$id"
}

# mode_now: the number, which nvpmodel prints on a line of its own.
mode_now() { nvpmodel -q 2>/dev/null | grep -E '^[0-9]+$' | tail -n 1; }

keep_mode() {
    [[ -e $KEPT/mode.before ]] || mode_now | atomically "$KEPT/mode.before"
}

set_mode() {
    if [[ $(mode_now) == "$1" ]]; then
        say "power mode $1, as it was"
        return
    fi
    # Some changes want a reboot, and nvpmodel asks for it. Not in the middle of this.
    printf 'no\n' | nvpmodel -m "$1" >/dev/null 2>&1 || true
    if [[ $(mode_now) == "$1" ]]; then
        say "power mode $1"
    else
        warn "power mode $1 needs a reboot; type: sudo nvpmodel -m $1"
    fi
}

restore() {
    if [[ -e $KEPT/clocks.before ]]; then
        if command -v jetson_clocks >/dev/null; then
            jetson_clocks --restore "$KEPT/clocks.before"
            say "clocks as they were"
        fi
        rm -f "$KEPT/clocks.before"
    fi
    if [[ -e $KEPT/mode.before ]]; then
        if command -v nvpmodel >/dev/null; then set_mode "$(cat "$KEPT/mode.before")"; fi
        rm -f "$KEPT/mode.before"
    fi
}

main "$@"
