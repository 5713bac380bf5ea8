#!/usr/bin/env bash
# Take everything off a board that provision.sh and flash.sh put there. May run again.
set -euo pipefail

PROGRAM=remove.sh
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=jetson/lib/say.sh
source "$HERE/lib/say.sh"
# shellcheck source=jetson/lib/facts.sh
source "$HERE/lib/facts.sh"
# shellcheck source=jetson/lib/remote.sh
source "$HERE/lib/remote.sh"
# shellcheck source=jetson/lib/install.sh
source "$HERE/lib/install.sh"

usage() {
    cat <<END
usage: jetson/remove.sh [--host USER@BOARD]    (on the board: sudo /opt/edge/board/remove.sh)

  --host USER@BOARD  do it over ssh
  --keep-config      leave /etc/edge as it is
  --dry-run          print every step, take none
END
}

main() {
    local host="" keep=no
    while (($#)); do
        case $1 in
        --host) need_value "$1" $# && host=$2 && shift ;;
        --keep-config) keep=yes ;;
        --dry-run) DRY_RUN=yes ;;
        -h | --help) usage && exit 0 ;;
        *) refuse "unknown argument $1; type: remove.sh --help" ;;
        esac
        shift
    done
    if [[ -n $host ]]; then
        there "$host" "$keep"
        return
    fi
    need_root
    only_one /run/lock/edge-provision.lock
    step "stop and disable the units" drop_units
    step "restore power and clocks" restore_power
    step "remove files" drop_files "$keep"
    step "remove the service's user" drop_user
    [[ $DRY_RUN == yes ]] || nothing_left "$keep"
}

# there HOST KEEP: with this checkout's scripts, since the board's may be half removed.
there() {
    local arguments=()
    [[ $2 == no ]] || arguments+=(--keep-config)
    if [[ $DRY_RUN == yes ]]; then
        say "would run on $1: sudo $PARCEL/jetson/remove.sh ${arguments[*]}"
        return
    fi
    send "$1" jetson "$HERE" lib board units provision.sh remove.sh
    as_root "$1" "$PARCEL/jetson/remove.sh ${arguments[*]}"
    on_board "$1" "remove what was copied" "rm -rf $PARCEL"
}

drop_units() {
    local name
    for name in "${UNITS[@]}" edge-first-boot.service; do
        if systemd_runs; then systemctl stop "$name" 2>/dev/null || true; fi
        systemctl disable --quiet "$name" 2>/dev/null || true
        # With what `systemctl edit` wrote.
        rm -rf "${SYSTEM_UNITS:?}/$name" "$SYSTEM_UNITS/$name.d" "$SYSTEM_UNITS/multi-user.target.wants/$name"
    done
    if systemd_runs; then
        systemctl daemon-reload
        systemctl reset-failed 'edge*' 2>/dev/null || true
    fi
}

restore_power() {
    # Beside this script on the board, in board/ of a checkout.
    local script=$HERE/power.sh
    [[ -x $script ]] || script=$HERE/board/power.sh
    "$script" restore
}

drop_files() {
    rm -rf "$OPT" "$STATE" "$CACHE" /run/edge "$SYSTEM_UNITS"/edge*.partial
    if [[ $1 == no ]]; then rm -rf "$ETC"; fi
}

drop_user() {
    if getent passwd "$SERVICE_USER" >/dev/null; then userdel "$SERVICE_USER"; fi
    if getent group "$SERVICE_USER" >/dev/null; then groupdel "$SERVICE_USER"; fi
}

# nothing_left KEEP: looked for, not believed.
nothing_left() {
    local places=("$OPT" "$STATE" "$CACHE" /run/edge) left=() place
    [[ $1 == yes ]] || places+=("$ETC")
    for place in "${places[@]}" "$SYSTEM_UNITS"/edge* "$SYSTEM_UNITS"/*/edge*; do
        if [[ -e $place || -L $place ]]; then left+=("$place"); fi
    done
    if getent passwd "$SERVICE_USER" >/dev/null; then left+=("user $SERVICE_USER"); fi
    ((${#left[@]} == 0)) || refuse "left behind: ${left[*]}; type the same again, or remove them by hand"
    rm -f /run/lock/edge-provision.lock
    say "nothing is left"
}

main "$@"
