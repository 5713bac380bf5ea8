#!/usr/bin/env bash
# The first boot of a flashed board: its name, then provisioning from what flash.sh left. Power may fail at any time.
set -euo pipefail

# shellcheck disable=SC2034  # say.sh uses it
PROGRAM=first-boot
PAYLOAD=/opt/edge/provisioning
# shellcheck source=jetson/lib/say.sh
source "$PAYLOAD/jetson/lib/say.sh"
# shellcheck source=jetson/lib/facts.sh
source "$PAYLOAD/jetson/lib/facts.sh"

main() {
    local arguments=(--wheelhouse "$PAYLOAD/wheelhouse")
    if [[ -f $PAYLOAD/name-prefix ]]; then give_name "$(cat "$PAYLOAD/name-prefix")"; fi
    if [[ -f $PAYLOAD/edge.toml && ! -f /etc/edge/edge.toml ]]; then arguments+=(--config "$PAYLOAD/edge.toml"); fi
    for bundle in "$PAYLOAD"/bundle/*; do
        if [[ -d $bundle ]]; then arguments+=(--bundle "$bundle"); fi
    done
    # Without a camera the service can't come up, and the board is provisioned all the same.
    "$PAYLOAD/jetson/provision.sh" "${arguments[@]}" --no-start
    systemctl disable --quiet edge-first-boot.service
    # The name first: whatever happens during the removal, this was the last run.
    mv "$PAYLOAD" "$PAYLOAD.done"
    systemctl start --no-block edge.service || true
    rm -rf "$PAYLOAD.done"
    say "this board is provisioned"
}

# give_name PREFIX: PREFIX-SERIAL, so boards flashed from one image have names of their own.
give_name() {
    local serial name
    serial=$(serial_number)
    if [[ -z $serial ]]; then
        warn "the device tree has no serial number; the name stays $(hostname)"
        return
    fi
    name=$(tr '[:upper:]' '[:lower:]' <<<"$1-$serial" | cut -c1-63)
    atomically /etc/hostname <<<"$name"
    hostname "$name" || warn "the name $name comes with the next boot"
    grep -qw "$name" /etc/hosts || { cat /etc/hosts && echo "127.0.1.1 $name"; } | atomically /etc/hosts
    say "this board is $name"
}

main "$@"
