#!/usr/bin/env bash
# Make a running Jetson sense: from the desk (--host) or on the board itself. The same command again completes it.
set -euo pipefail

PROGRAM=provision.sh
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=jetson/lib/say.sh
source "$HERE/lib/say.sh"
# shellcheck source=jetson/lib/facts.sh
source "$HERE/lib/facts.sh"
# shellcheck source=jetson/lib/remote.sh
source "$HERE/lib/remote.sh"
# shellcheck source=jetson/lib/install.sh
source "$HERE/lib/install.sh"

# For engines and compiled kernels.
ROOM_FOR_ENGINES_MIB=200

usage() {
    cat <<END
usage: jetson/provision.sh [--host USER@BOARD] [--wheelhouse DIR]    (on the board: sudo jetson/provision.sh)

Installs from a wheelhouse, without a network: the package, its service, its engines; then checks and starts it.

  --host USER@BOARD  do it over ssh; without, this machine is the board
  --wheelhouse DIR   what jetson/wheelhouse.sh filled (default: dist/wheelhouse)
  --config FILE      becomes /etc/edge/edge.toml (default: what is there, else a template)
  --bundle DIR       a bundle of your own, goes to /opt/edge/bundles
  --no-start         install everything, start nothing
  --dry-run          print every step, take none
END
}

main() {
    local host="" wheelhouse=dist/wheelhouse config="" bundle="" start=yes
    while (($#)); do
        case $1 in
        --host) need_value "$1" $# && host=$2 && shift ;;
        --wheelhouse) need_value "$1" $# && wheelhouse=$2 && shift ;;
        --config) need_value "$1" $# && config=$2 && shift ;;
        --bundle) need_value "$1" $# && bundle=$2 && shift ;;
        --no-start) start=no ;;
        --dry-run) DRY_RUN=yes ;;
        -h | --help) usage && exit 0 ;;
        *) refuse "unknown argument $1; type: jetson/provision.sh --help" ;;
        esac
        shift
    done
    need_wheelhouse "$wheelhouse"
    [[ -z $config || -f $config ]] || refuse "--config $config: no such file; to begin one, type: edge config show"
    [[ -z $bundle || -f $bundle/manifest.json ]] ||
        refuse "--bundle $bundle: no bundle's folder (manifest.json is absent); to make one, type: python -m export --help"
    if [[ -n $host ]]; then
        over_ssh "$host" "$wheelhouse" "$config" "$bundle" "$start"
    else
        here "$wheelhouse" "$config" "$bundle" "$start"
    fi
}

# here WHEELHOUSE CONFIG BUNDLE START: the steps, on the board.
here() {
    local wheelhouse config bundle=$3 release jetpack tag room
    wheelhouse=$(realpath "$1")
    config=${2:+$(realpath "$2")}
    bundle=${3:+$(realpath "$3")}
    release=$(l4t_release "" || true)
    jetpack=$(jetpack_of "$release") || exit $?
    tag=$(python_tag "") || refuse "/usr/bin/python3 is absent; type: sudo apt install python3"
    say "Jetson Linux $release, JetPack $jetpack, Python $tag"
    warn_of_old_tensorrt "$release"
    need_root
    need_python "$wheelhouse" "$tag"
    room=$(room_of "$wheelhouse" "$tag")
    need_room "$OPT" $((room + ROOM_FOR_ENGINES_MIB))
    only_one /run/lock/edge-provision.lock

    step "make the service's user" make_user
    step "install the package" install_package "$wheelhouse" "$tag"
    step "build PyCUDA for this board's CUDA" install_gpu "$wheelhouse" "$tag"
    step "place scripts, units and configuration" place_files "$config" "$bundle"
    step "check this machine" as_service edge doctor || refuse "this machine can't run the package; what is missing is above"
    step "check the configuration" as_service edge config check "$ETC/edge.toml" ||
        refuse "$ETC/edge.toml is not in order (above); mend it, or give another: --config FILE"
    step "set power and clocks" start_unit edge-power.service ||
        refuse "power and clocks could not be set (the reason: journalctl -u edge-power); mend $ETC/power.conf, then type the same again"
    step "build engines (minutes; journalctl -fu edge-engines shows them)" start_unit edge-engines.service ||
        warn "engines were not built, so the CPU does the work (the reason: journalctl -u edge-engines); to try again type: sudo systemctl start edge-engines"
    step "check bundle and engines on this device" check_device
    step "enable the service" systemctl enable --quiet edge-power.service edge-engines.service edge.service
    if [[ $4 == yes ]]; then
        step "start the service" start_service
        # Not before: a service that still runs needs its own.
        step "remove older versions" remove_older_versions
    fi
    say "done; type: systemctl status edge"
}

# check_device: the bundle against its golden vectors, where it will run; with a GPU, engines and kernels too.
check_device() {
    local report=$CACHE/check.json bundle
    bundle=$("$OPT/current/bin/python" "$OPT/board/configured.py" bundle face)
    if uses_gpu; then
        as_service edge check "$bundle" --device --report "$report" ||
            refuse "this device failed its check, so the service is not started; the reason is above; attach $report to a bug report"
    else
        as_service edge check "$bundle" || refuse "the bundle failed its check, so the service is not started; the reason is above"
    fi
}

# start_service: and say why, where it does not come up.
start_service() {
    start_unit edge.service && return
    journalctl -u edge -n 5 --no-pager -o cat >&2 || true
    refuse "everything is installed, and the service does not come up (its last words are above; it goes on trying); mend /etc/edge/edge.toml or the camera, then type: sudo systemctl restart edge"
}

main "$@"
