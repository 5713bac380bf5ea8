#!/usr/bin/env bash
# A bare board becomes one that senses by itself: prepare NVIDIA's Linux_for_Tegra on the desk, then flash it.
set -euo pipefail

PROGRAM=flash.sh
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=jetson/lib/say.sh
source "$HERE/lib/say.sh"
# shellcheck source=jetson/lib/facts.sh
source "$HERE/lib/facts.sh"
# shellcheck source=jetson/lib/boards.sh
source "$HERE/lib/boards.sh"
# shellcheck source=jetson/lib/install.sh
source "$HERE/lib/install.sh"

# Of the root file system itself: NVIDIA's script copies it into images beside it.
ROOM_FOR_IMAGES_MIB=20000
USB_DEVICES=${EDGE_USB_DEVICES:-/sys/bus/usb/devices}

usage() {
    cat <<END
usage: sudo jetson/flash.sh BOARD --l4t DIR [--wheelhouse DIR]

BOARD: $BOARD_NAMES

  --l4t DIR          NVIDIA's Linux_for_Tegra, after apply_binaries.sh
  --wheelhouse DIR   what jetson/wheelhouse.sh filled (default: dist/wheelhouse)
  --config FILE      the service's edge.toml
  --bundle DIR       a bundle of your own
  --user NAME        who can log in (default: robot); asked for at the first boot if --no-user
  --password-file F  its password, one line (default: one is made up, and shown)
  --no-user
  --name PREFIX      boards call themselves PREFIX-SERIAL (default: edge)
  --boards N         flash N boards at once, all in recovery mode
  --prepare-only     prepare the tree, flash nothing
  --dry-run          print every step, take none
END
}

main() {
    local board="" l4t="" wheelhouse=dist/wheelhouse config="" bundle="" user=robot password_file="" name=edge boards=1 flash=yes
    while (($#)); do
        case $1 in
        --l4t) need_value "$1" $# && l4t=$2 && shift ;;
        --wheelhouse) need_value "$1" $# && wheelhouse=$2 && shift ;;
        --config) need_value "$1" $# && config=$2 && shift ;;
        --bundle) need_value "$1" $# && bundle=$2 && shift ;;
        --user) need_value "$1" $# && user=$2 && shift ;;
        --password-file) need_value "$1" $# && password_file=$2 && shift ;;
        --no-user) user="" ;;
        --name) need_value "$1" $# && name=$2 && shift ;;
        --boards) need_value "$1" $# && boards=$2 && shift ;;
        --prepare-only) flash=no ;;
        --dry-run) DRY_RUN=yes ;;
        -h | --help) usage && exit 0 ;;
        -*) refuse "unknown option $1; type: jetson/flash.sh --help" ;;
        *) [[ -z $board ]] || refuse "one board at a time, not also $1; many of one kind: --boards N" && board=$1 ;;
        esac
        shift
    done
    [[ -n $board ]] || refuse "which board? expected one of: $BOARD_NAMES"
    board_conf "$board" >/dev/null
    [[ -n $l4t ]] || refuse "--l4t is needed: the path of NVIDIA's Linux_for_Tegra"
    [[ $name =~ ^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$ ]] ||
        refuse "--name $name: expected a host name's beginning, of a-z, 0-9 and -, at most 32 letters"
    [[ $boards =~ ^[1-9][0-9]?$ ]] || refuse "--boards $boards: expected 1 to 99"
    [[ -z $user || $user =~ ^[a-z][a-z0-9-]{0,30}$ ]] || refuse "--user $user: expected a user name of a-z, 0-9 and -"
    [[ $user != "$SERVICE_USER" ]] || refuse "--user $user is the service's own; choose another"
    [[ -z $config || -f $config ]] || refuse "--config $config: no such file; to begin one, type: edge config show"
    [[ -z $bundle || -f $bundle/manifest.json ]] ||
        refuse "--bundle $bundle: no bundle's folder (manifest.json is absent); to make one, type: python -m export --help"
    [[ -z $password_file || -s $password_file ]] || refuse "--password-file $password_file: no such file, or empty"

    need_tree "$l4t" "$board"
    local release tag
    release=$(l4t_release "$l4t/rootfs")
    jetpack_of "$release" >/dev/null
    board_releases "$board" "$release"
    tag=$(python_tag "$l4t/rootfs") || refuse "$l4t/rootfs has no python3; unpack NVIDIA's sample root file system again"
    need_wheelhouse "$wheelhouse"
    need_python "$wheelhouse" "$tag"
    need_root
    say "Jetson Linux $release, Python $tag, for $boards x $board"
    need_room "$l4t" "$(($(du -sm "$wheelhouse" | cut -f1) + ${EDGE_FLASH_ROOM_MIB:-$ROOM_FOR_IMAGES_MIB}))"
    only_one "$l4t/.edge-flash.lock"

    step "copy what the first boot needs into the root file system" \
        place_payload "$l4t/rootfs" "$wheelhouse" "$tag" "$config" "$bundle" "$name"
    step "have it run at the first boot" enable_first_boot "$l4t/rootfs"
    if [[ -n $user ]]; then step "make the user $user" make_login "$l4t" "$user" "$password_file" "$name"; fi
    if [[ $flash == yes ]]; then flash_boards "$l4t" "$board" "$boards"; fi
    say "done; a board names itself $name-SERIAL and provisions itself at its first boot (minutes; journalctl -fu edge-first-boot)"
}

# need_tree L4T BOARD: NVIDIA's tree is whole, and knows this board.
need_tree() {
    [[ -x $1/tools/kernel_flash/l4t_initrd_flash.sh ]] ||
        refuse "$1 is no Linux_for_Tegra (tools/kernel_flash/l4t_initrd_flash.sh is absent); unpack NVIDIA's Jetson_Linux_*_aarch64.tbz2"
    [[ -d $1/rootfs/etc ]] ||
        refuse "$1/rootfs is empty; unpack NVIDIA's Tegra_Linux_Sample-Root-Filesystem_*_aarch64.tbz2 into it"
    [[ -f $1/rootfs/etc/nv_tegra_release ]] ||
        refuse "$1/rootfs has no NVIDIA drivers yet; type: cd $1 && sudo ./apply_binaries.sh$([[ $2 == agx-thor ]] && echo " --openrm")"
    [[ -f $1/$(board_conf "$2").conf ]] ||
        refuse "$1 has no $(board_conf "$2").conf, so this Jetson Linux is not for $2; unpack another release"
}

# place_payload ROOTFS WHEELHOUSE TAG CONFIG BUNDLE NAME: whole or not at all.
place_payload() {
    local rootfs=$1 wheelhouse=$2 tag=$3 config=$4 bundle=$5 name=$6 payload=$1$OPT/provisioning other others=()
    rm -rf "$payload" "$payload.partial"
    mkdir -p "$payload.partial/jetson" "$payload.partial/wheelhouse"
    for other in "$wheelhouse"/requirements-*.txt; do
        other=$(basename "$other" .txt)
        other=${other#requirements-}
        [[ $other == "$tag" ]] || others+=("--exclude=*-$other-$other-*")
    done
    tar -C "$wheelhouse" "${others[@]}" -cf - . | tar -C "$payload.partial/wheelhouse" --no-same-owner -xf - ||
        refuse "the wheelhouse can't be copied into $rootfs; make room, then type the same again"
    cp -r "$HERE"/{lib,board,units,provision.sh,remove.sh} "$payload.partial/jetson/"
    if [[ -n $config ]]; then install -m 0644 "$config" "$payload.partial/edge.toml"; fi
    if [[ -n $bundle ]]; then mkdir "$payload.partial/bundle" && cp -r "$bundle" "$payload.partial/bundle/"; fi
    echo "$name" >"$payload.partial/name-prefix"
    chmod -R u+rwX,go+rX,go-w "$payload.partial"
    sync -f "$payload.partial"
    mv "$payload.partial" "$payload"
}

# enable_first_boot ROOTFS: as `systemctl --root` would, which a desk need not have.
enable_first_boot() {
    local units=$1$SYSTEM_UNITS
    mkdir -p "$units/multi-user.target.wants"
    atomically "$units/edge-first-boot.service" <"$HERE/units/edge-first-boot.service"
    ln -sfn "$SYSTEM_UNITS/edge-first-boot.service" "$units/multi-user.target.wants/edge-first-boot.service"
}

# make_login L4T USER FILE NAME: with NVIDIA's tool, which also skips the setup dialogue of the first boot.
make_login() {
    local password
    if grep -q "^$2:" "$1/rootfs/etc/passwd"; then
        say "the user $2 is there already"
        return
    fi
    if [[ -n $3 ]]; then
        password=$(head -n 1 "$3")
    else
        password=$(head -c 300 /dev/urandom | tr -dc 'a-hj-km-np-z2-9' | cut -c1-16)
        say "the password of $2 is $password (shown once; change it on the board with passwd)"
    fi
    (cd "$1" && ./tools/l4t_create_default_user.sh -u "$2" -p "$password" -n "$4" --accept-license) ||
        refuse "NVIDIA's l4t_create_default_user.sh failed; the reason is above"
}

# flash_boards L4T BOARD COUNT: NVIDIA's tool does it; several boards get one image, made once.
flash_boards() {
    local l4t=$1 board=$2 count=$3 arguments=() conf
    mapfile -t arguments < <(board_arguments "$board")
    conf=$(board_conf "$board")
    [[ $DRY_RUN == yes ]] || need_in_recovery "$board" "$count"
    if ((count == 1)); then
        nvidias "$l4t" "${arguments[@]}" "$conf" internal
    else
        nvidias "$l4t" --no-flash --massflash "$count" "${arguments[@]}" "$conf" internal
        nvidias "$l4t" --flash-only --massflash "$count" --showlogs --network usb0
    fi
}

# nvidias L4T ARGUMENT...: l4t_initrd_flash.sh, from its own folder.
nvidias() {
    local l4t=$1
    shift
    step "flash with NVIDIA's tool, in $l4t" run_in "$l4t" ./tools/kernel_flash/l4t_initrd_flash.sh "$@" ||
        refuse "NVIDIA's l4t_initrd_flash.sh failed (its logs: $l4t/initrdlog); put the board into recovery mode, try another cable or port, then type the same again"
}

run_in() { (cd "$1" && "${@:2}"); }

# need_in_recovery BOARD COUNT: that many boards of this kind wait on USB.
need_in_recovery() {
    local id device found=0 wanted
    wanted=" $(board_usb_ids "$1") "
    for device in "$USB_DEVICES"/*; do
        [[ -r $device/idVendor && $(cat "$device/idVendor") == 0955 ]] || continue
        id=$(cat "$device/idProduct")
        if [[ $wanted == *" $id "* ]]; then found=$((found + 1)); fi
    done
    ((found >= $2)) || refuse "$found of $2 boards ($1) wait in recovery mode; hold its recovery button (or bridge FC REC and GND) while power comes on, and look with: lsusb -d 0955:"
}

main "$@"
