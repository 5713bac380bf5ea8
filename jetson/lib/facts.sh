# shellcheck shell=bash
# What a root file system is: which JetPack, which Python, how much room. ROOT is "" for the running system.

# l4t_release ROOT: the Jetson Linux release, as 36.4.3.
l4t_release() {
    local file="$1/etc/nv_tegra_release"
    [[ -r $file ]] || return 1
    sed -nE '1s/^# R([0-9]+) .*REVISION: ([0-9.]+).*/\1.\2/p' "$file"
}

# jetpack_of RELEASE: the JetPack's first number; refuses what this package can't run on, and says why.
jetpack_of() {
    local release=$1
    case $release in
    36.[3-9]* | 36.[1-9][0-9]*) echo 6 ;;
    38.* | 39.*) echo 7 ;;
    36.*) refuse "Jetson Linux $release is a preview of JetPack 6 with TensorRT 8; expected JetPack 6.0 or later; flash 36.4 or later" ;;
    35.*) refuse "Jetson Linux $release is JetPack 5: Python 3.8 and TensorRT 8.5, which can't build these engines; expected JetPack 6 or 7; on Orin flash 36.4 or later" ;;
    3[0-4].*) refuse "Jetson Linux $release is older than JetPack 5: its Python and TensorRT are too old; expected JetPack 6 or 7 (Orin, Thor)" ;;
    "") refuse "no Jetson Linux here (/etc/nv_tegra_release is absent or unreadable); expected a Jetson with JetPack 6 or 7; for another machine type: pip install edge-emotion" ;;
    *) refuse "Jetson Linux $release is not known to this version; expected JetPack 6 (36.x) or 7 (38.x, 39.x); install a newer edge-emotion" ;;
    esac
}

# warn_of_old_tensorrt RELEASE: what runs, but not at its best.
warn_of_old_tensorrt() {
    case $1 in
    36.3*) warn "JetPack 6.0 has TensorRT 8.6, too old for engines: the CPU will do the work; for engines type: sudo apt dist-upgrade to JetPack 6.1 or later" ;;
    esac
}

# python_tag ROOT: the distribution's Python, as cp310. Only that one sees JetPack's TensorRT.
python_tag() {
    local real
    real=$(readlink "$1/usr/bin/python3") || return 1
    [[ $real =~ python3\.([0-9]+)$ ]] || return 1
    echo "cp3${BASH_REMATCH[1]}"
}

# need_room FOLDER MIB: refuses where less is free.
need_room() {
    local folder=$1 mib=$2 free
    while [[ ! -d $folder ]]; do folder=$(dirname "$folder"); done
    free=$(($(df -Pk "$folder" | awk 'NR == 2 {print $4}') / 1024))
    ((free >= mib)) || refuse "$folder has $free MiB free; expected $mib MiB; make room (sudo apt clean; docker image prune), then type the same again"
}

# serial_number: the board's own, digits and letters; empty where the device tree has none.
serial_number() {
    local file=${EDGE_DEVICE_TREE:-/proc/device-tree}/serial-number
    [[ -r $file ]] || return 0
    tr -cd '[:alnum:]' <"$file"
}
