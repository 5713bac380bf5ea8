#!/usr/bin/env bash
# `make arm64`: a board, emulated. flash.sh prepares its root, systemd boots it under qemu, power fails in the middle of
# its first boot, it boots again, and then everything that a board should do is looked at. NVIDIA's own tools are
# stand-ins (tests/jetson/standins.sh); all else is real: aarch64 Python and wheels, systemd, the scripts and units.
# With --native the same on this machine's own processor: a tenth of the time, and nothing said of aarch64.
set -euo pipefail

PROGRAM=emulated.sh
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(dirname "$HERE")
# shellcheck source=jetson/lib/say.sh
source "$HERE/lib/say.sh"
# shellcheck source=tests/jetson/standins.sh
source "$REPOSITORY/tests/jetson/standins.sh"

CACHE_HOME=${EDGE_ARM64:-$HOME/.cache/edge-emotion}
ARCHITECTURE=arm64
MACHINE=aarch64
BASE=""
# Debian 12 has arm64 for debootstrap everywhere; its Python is 3.11, between JetPack 6's 3.10 and 7's 3.12.
SUITE=bookworm
PYTHON_VERSION=3.11
PACKAGES=python3,python3-venv,ca-certificates,systemd,systemd-sysv,dbus
WORK=""
BOARD=""
LEADER=""
NSPAWN=""

main() {
    local began=$SECONDS
    case ${1:-} in
    "") ;;
    --native)
        MACHINE=$(uname -m)
        ARCHITECTURE=$(dpkg --print-architecture)
        ;;
    *) refuse "unknown argument $1; expected nothing, or --native" ;;
    esac
    BASE=$CACHE_HOME/$ARCHITECTURE-root
    need_tools
    make_base
    wheelhouse
    WORK=$(mktemp -d "$CACHE_HOME/run.XXXXXX")
    trap clean EXIT
    make_board
    told "flash.sh prepares the root file system" prepare
    boot
    told "power fails while the first boot installs" power_cut
    boot
    told "the first boot completes" first_boot_completes
    told "edge doctor" inside /opt/edge/current/bin/edge doctor
    told "edge check" inside /opt/edge/current/bin/edge check
    told "edge run on the demo" demo
    told "the service lives, and its page answers" service_lives
    told "provision.sh again changes nothing" again
    told "a service that is stuck is started again" stuck
    told "remove.sh leaves nothing" removed
    say "passed in $((SECONDS - began)) s"
}

# told WHAT COMMAND...: one proof, with its time; its output is shown when it fails.
told() {
    local what=$1 began=$SECONDS status
    shift
    # Not `if "$@"`: there, set -e would not hold, and a proof in the middle could not fail.
    set +e
    (
        set -e
        "$@"
    ) >"$WORK/log" 2>&1
    status=$?
    set -e
    if ((status == 0)); then
        say "ok    $what ($((SECONDS - began)) s)"
    else
        tail -n 60 "$WORK/log" >&2
        inside journalctl --no-pager -o cat -n 60 >&2 || true
        refuse "FAIL  $what (output above)"
    fi
}

need_tools() {
    local tool missing=()
    ((EUID == 0)) || refuse "root is needed, for mounts and a boot; type: sudo make arm64"
    for tool in debootstrap:debootstrap qemu-aarch64-static:qemu-user-static systemd-nspawn:systemd-container nsenter:util-linux; do
        command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    ((${#missing[@]} == 0)) || refuse "${missing[*]} absent; type: apt-get install ${missing[*]} binfmt-support"
    emulating || return 0
    [[ -e /proc/sys/fs/binfmt_misc/register ]] || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc ||
        refuse "this kernel can't run foreign programs (binfmt_misc); use another machine"
    [[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]] || update-binfmts --enable qemu-aarch64
}

emulating() { [[ $MACHINE != "$(uname -m)" ]]; }

# make_base: Debian, once.
make_base() {
    [[ -e $BASE/.complete ]] && return
    say "making $BASE (minutes, once)"
    rm -rf "$BASE"
    mkdir -p "$CACHE_HOME"
    debootstrap --arch="$ARCHITECTURE" --variant=minbase --include="$PACKAGES" "$SUITE" "$BASE" "${EDGE_MIRROR:-http://deb.debian.org/debian}" \
        >"$CACHE_HOME/debootstrap.log" 2>&1 || refuse "debootstrap failed; see $CACHE_HOME/debootstrap.log"
    touch "$BASE/.complete"
}

# wheelhouse: of this checkout, for the emulated board's Python.
wheelhouse() {
    if [[ -n ${EDGE_WHEELHOUSE:-} ]]; then
        say "the wheelhouse is the given one: $EDGE_WHEELHOUSE"
        return
    fi
    EDGE_WHEELHOUSE=$CACHE_HOME/wheelhouse-$MACHINE
    "$HERE/wheelhouse.sh" "$EDGE_WHEELHOUSE" --python "$PYTHON_VERSION" --machine "$MACHINE"
}

# make_board: Linux_for_Tegra with stand-ins, whose rootfs is Debian's, written to a layer of its own.
make_board() {
    BOARD=$WORK/Linux_for_Tegra/rootfs
    mkdir -p "$WORK/upper" "$WORK/work" "$BOARD"
    mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$WORK/upper,workdir=$WORK/work" "$BOARD"
    standin_tree "$WORK/Linux_for_Tegra"
    standin_release "$BOARD" 36 4.4
    standin_tools "$BOARD"
    # An emulated processor is many times slower than a board's; and the service has a /proc of its own.
    cpuinfo >"$BOARD/opt/cpuinfo"
    mkdir -p "$BOARD/etc/systemd/system/edge.service.d"
    printf '[Service]\nTimeoutStartSec=900\nWatchdogSec=120\n' >"$BOARD/etc/systemd/system/edge.service.d/slow.conf"
    if emulating; then
        echo 'BindReadOnlyPaths=/opt/cpuinfo:/proc/cpuinfo' >>"$BOARD/etc/systemd/system/edge.service.d/slow.conf"
    fi
    cat >"$WORK/edge.toml" <<'END'
source = "synthetic://?frames=100000"
preview = "127.0.0.1:8765"
END
}

# cpuinfo: Orin's (Cortex-A78AE). What the kernel shows is the desk's processor, on which ONNX Runtime for ARM stumbles.
cpuinfo() {
    local core
    for ((core = 0; core < $(nproc); core++)); do
        cat <<END
processor	: $core
BogoMIPS	: 62.50
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat ilrcpc flagm
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd42
CPU revision	: 1

END
    done
}

prepare() {
    EDGE_FLASH_ROOM_MIB=100 "$HERE/flash.sh" orin-nano --l4t "$WORK/Linux_for_Tegra" --wheelhouse "$EDGE_WHEELHOUSE" \
        --config "$WORK/edge.toml" --name robot --prepare-only
    grep -q -- "-n robot --accept-license" "$WORK/Linux_for_Tegra/calls"
}

# boot: systemd as the first process, no network.
boot() {
    systemd-nspawn --register=no --keep-unit --quiet --boot --private-network --console=pipe -D "$BOARD" \
        --machine=board systemd.log_target=journal </dev/null >"$WORK/console" 2>&1 &
    NSPAWN=$!
    # Its death is expected, and no news.
    disown "$NSPAWN"
    local tries
    for ((tries = 0; tries < 120; tries++)); do
        LEADER=$(pgrep -P "$NSPAWN" | head -n 1 || true)
        if [[ -n $LEADER ]] && inside systemctl show-environment >/dev/null 2>&1; then
            if emulating; then inside mount --bind /opt/cpuinfo /proc/cpuinfo; fi
            return
        fi
        sleep 1
    done
    tail -n 30 "$WORK/console" >&2
    refuse "the emulated board does not boot (its console is above)"
}

# inside COMMAND...: on the board, as root.
inside() { nsenter --target "$LEADER" --mount --uts --ipc --net --pid --root --wd -- /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/root "$@"; }

# until_true SECONDS COMMAND...: it becomes so.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "still not so: $*" && return 1; }
        sleep 1
    done
}

power_cut() {
    # In the middle of pip's work: some packages are there, others not.
    until_true 300 compgen -G "$BOARD/opt/edge/versions/*/lib/python3*/site-packages/numpy"
    kill -KILL "$NSPAWN" "$LEADER"
    until_true 20 dead
    [[ -z $(compgen -G "$BOARD/opt/edge/versions/*/.complete") && ! -e $BOARD/opt/edge/current ]]
}

dead() { ! kill -0 "$NSPAWN" 2>/dev/null && ! kill -0 "$LEADER" 2>/dev/null; }

first_boot_completes() {
    until_true 2400 payload_gone
    inside journalctl --no-pager -o cat -u edge-first-boot
    [[ $(inside hostname) == robot-1421122334455 ]]
    [[ $(inside systemctl is-enabled edge.service) == enabled ]]
    [[ $(inside systemctl is-enabled edge-first-boot.service) == disabled ]]
}

payload_gone() { [[ ! -e $BOARD/opt/edge/provisioning ]]; }

demo() {
    inside /opt/edge/current/bin/edge run synthetic:// --max-frames 40 --jsonl /root/demo.jsonl
    grep -Eq '"label": ?"happy"' "$BOARD/root/demo.jsonl"
}

active() { [[ $(inside systemctl is-active edge.service) == active ]]; }

service_lives() {
    until_true 900 active
    # The page as the desk's browser would have it, and what the service may and may not.
    inside /usr/bin/python3 -c "import urllib.request as u; assert b'<html' in u.urlopen('http://127.0.0.1:8765', timeout=60).read().lower()"
    local process
    process=$(inside systemctl show -p MainPID --value edge.service)
    [[ $(inside stat -c %U "/proc/$process") == edge-emotion ]]
    inside journalctl --no-pager -u edge -n 5
}

again() {
    local before after
    before=$(inside systemctl show -p MainPID --value edge.service)
    inside systemctl stop edge.service
    tar -C "$HERE" --exclude=__pycache__ -cf - . | tar -C "$BOARD/root" --one-top-level=jetson -xf -
    cp -r "$EDGE_WHEELHOUSE" "$BOARD/root/wheelhouse"
    inside /root/jetson/provision.sh --wheelhouse /root/wheelhouse
    active
    after=$(inside systemctl show -p MainPID --value edge.service)
    [[ $before != "$after" && $(find "$BOARD/opt/edge/versions" -mindepth 1 -maxdepth 1 | wc -l) == 1 ]]
}

stuck() {
    local process
    inside mkdir -p /run/systemd/system/edge.service.d
    printf '[Service]\nWatchdogSec=45\n' | inside tee /run/systemd/system/edge.service.d/test.conf
    inside systemctl daemon-reload
    inside systemctl restart edge.service
    process=$(inside systemctl show -p MainPID --value edge.service)
    inside sh -c "kill -STOP $process"
    until_true 300 restarted "$process"
    until_true 900 active
    inside journalctl --no-pager -u edge -o cat | grep -i watchdog
    inside journalctl --no-pager -u edge -o cat | grep "failed 1 times in a row"
}

restarted() {
    local process
    process=$(inside systemctl show -p MainPID --value edge.service)
    [[ $process != 0 && $process != "$1" ]]
}

removed() {
    inside /opt/edge/board/remove.sh
    [[ -z $(compgen -G "$BOARD/etc/systemd/system/edge*") ]]
    [[ ! -e $BOARD/opt/edge && ! -e $BOARD/etc/edge && ! -e $BOARD/var/cache/edge ]]
}

clean() {
    if [[ -n $NSPAWN ]]; then kill -KILL "$NSPAWN" ${LEADER:+"$LEADER"} 2>/dev/null || true; fi
    sleep 1
    if [[ -n $BOARD ]] && mountpoint -q "$BOARD"; then umount "$BOARD" || umount -l "$BOARD"; fi
    if [[ -n $WORK ]]; then rm -rf --one-file-system "$WORK"; fi
}

main "$@"
