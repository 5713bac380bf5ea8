# shellcheck shell=bash
# The same, from the desk: copy, then run it there.

# A board that is gone is noticed within 15 seconds, not after TCP's two hours.
SSH=(ssh -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3)
if [[ -n ${EDGE_SSH_OPTIONS:-} ]]; then read -ra more <<<"$EDGE_SSH_OPTIONS" && SSH+=("${more[@]}"); fi
# On the board, under the user's home.
PARCEL=.cache/edge-provision

# on_board HOST WHAT COMMAND: a shell command there; a lost connection is told as one.
on_board() {
    local status=0
    "${SSH[@]}" "$1" "$3" || status=$?
    ((status != 255)) ||
        refuse "$1 can't be reached (to $2); nothing half-done counts there; check power, cable and ssh $1, then type the same again"
    return $status
}

# over_ssh HOST WHEELHOUSE CONFIG BUNDLE START: copy what is not there yet, and provision there.
over_ssh() {
    local host=$1 wheelhouse=$2 config=$3 bundle=$4 arguments=(--wheelhouse "$PARCEL/wheelhouse") tag
    [[ $5 == yes ]] || arguments+=(--no-start)
    if [[ $DRY_RUN == yes ]]; then
        say "would copy $wheelhouse and jetson/ to $host:$PARCEL"
        say "would run there: sudo $PARCEL/jetson/provision.sh ${arguments[*]}"
        return
    fi
    # Its release and Python first: a board that will be refused need not be sent 150 MiB.
    # shellcheck disable=SC2016  # expanded there
    tag=$(on_board "$host" "ask what it is" 'head -n 1 /etc/nv_tegra_release 2>/dev/null; readlink -f /usr/bin/python3 || true')
    jetpack_of "$(sed -nE '1s/^# R([0-9]+) .*REVISION: ([0-9.]+).*/\1.\2/p' <<<"$tag")" >/dev/null
    [[ $tag =~ python3\.([0-9]+)$ ]] || refuse "$host has no /usr/bin/python3; type there: sudo apt install python3"
    tag=cp3${BASH_REMATCH[1]}
    [[ -f $wheelhouse/requirements-$tag.txt ]] ||
        refuse "$host has Python $tag, and $wheelhouse was not filled for it; type: jetson/wheelhouse.sh --python 3.${tag#cp3}"
    send_wheelhouse "$host" "$wheelhouse" "$tag"
    say "copying the scripts to $host"
    send "$host" jetson "$HERE" lib board units provision.sh remove.sh
    if [[ -n $config ]]; then
        send "$host" config "$(dirname "$config")" "$(basename "$config")"
        arguments+=(--config "$PARCEL/config/$(basename "$config")")
    fi
    if [[ -n $bundle ]]; then
        send "$host" bundle "$(dirname "$(realpath "$bundle")")" "$(basename "$(realpath "$bundle")")"
        arguments+=(--bundle "$PARCEL/bundle/$(basename "$(realpath "$bundle")")")
    fi
    say "provisioning $host"
    as_root "$host" "$PARCEL/jetson/provision.sh $(quoted "${arguments[@]}")"
}

# send_wheelhouse HOST WHEELHOUSE TAG: unless the same is there; without the wheels of other Pythons.
send_wheelhouse() {
    local sum there others=()
    sum=$(sha256sum "$2/SHA256SUMS" | cut -d' ' -f1)
    there=$(on_board "$1" "see what it has" "sha256sum $PARCEL/wheelhouse/SHA256SUMS 2>/dev/null || true" | cut -d' ' -f1)
    if [[ $there == "$sum" ]]; then
        say "the wheelhouse is on $1 already"
        return
    fi
    for other in "$2"/requirements-*.txt; do
        other=$(basename "$other" .txt)
        other=${other#requirements-}
        # cp39-abi3 and the like serve all.
        [[ $other == "$3" ]] || others+=("--exclude=*-$other-$other-*")
    done
    say "copying the wheelhouse to $1"
    send "$1" wheelhouse "$2" "${others[@]}" .
}

# send HOST NAME FOLDER WHAT...: tar's arguments WHAT under FOLDER become PARCEL/NAME there, whole or not at all.
send() {
    local host=$1 name=$2 folder=$3
    shift 3
    tar -C "$folder" --exclude=__pycache__ -cf - "$@" | on_board "$host" "copy $name" \
        "set -e; cd; mkdir -p $PARCEL; rm -rf $PARCEL/$name.partial; mkdir $PARCEL/$name.partial
        tar -C $PARCEL/$name.partial -xf - || { echo '$host has no room for $name; make room, then type the same again' >&2; exit 2; }
        rm -rf $PARCEL/$name; mv $PARCEL/$name.partial $PARCEL/$name"
}

# as_root HOST COMMAND: sudo may ask for its password where somebody sits there to type it.
as_root() {
    local sudo="sudo -n"
    if [[ -t 0 ]]; then
        SSH+=(-t)
        sudo=sudo
    fi
    on_board "$1" "provision" "if [ \$(id -u) = 0 ]; then $2; else $sudo $2; fi"
}
