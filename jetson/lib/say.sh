# shellcheck shell=bash
# Messages, and the two ways to run a command: for real, or (DRY_RUN=yes) told only.

DRY_RUN=${DRY_RUN:-no}

# say MESSAGE: what happens now.
say() { printf '%s: %s\n' "${PROGRAM:-edge}" "$*"; }

# warn MESSAGE: it goes on, and somebody should know.
warn() { printf '%s: warning: %s\n' "${PROGRAM:-edge}" "$*" >&2; }

# refuse MESSAGE: one line: what was wrong, what was expected, what to type. Ends the script with status 2.
refuse() {
    printf '%s: %s\n' "${PROGRAM:-edge}" "$*" >&2
    exit 2
}

# step WHAT COMMAND...: one step of a longer work; with --dry-run it is printed and not taken.
step() {
    local what=$1
    shift
    if [[ $DRY_RUN == yes ]]; then
        say "would $what: $(quoted "$@")"
    else
        say "$what"
        "$@"
    fi
}

# quoted WORD...: the words as one could type them.
quoted() {
    local line
    printf -v line '%q ' "$@"
    printf '%s' "${line% }"
}

# need_value OPTION COUNT: an option that needs a value has one.
need_value() { (($2 >= 2)) || refuse "$1 needs a value; type: $PROGRAM --help"; }

# need_root: steps that change the system are the administrator's.
need_root() {
    ((EUID == 0)) || [[ $DRY_RUN == yes ]] || refuse "root is needed; type: sudo $PROGRAM ..."
}

# only_one LOCK: a second run at the same time is refused, and a killed run leaves no lock behind.
only_one() {
    [[ $DRY_RUN == yes ]] && return
    exec {LOCK_NUMBER}>"$1" || refuse "$1 can't be written; make room, or check the folder's rights"
    flock -n "$LOCK_NUMBER" || refuse "another run holds $1; wait until it is done, then type the same again"
}

# atomically FILE: standard input becomes FILE, whole or not at all, also when power fails.
atomically() {
    local file=$1 partial
    partial=$(mktemp "$file.XXXXXX.partial")
    if cat >"$partial" && chmod 0644 "$partial" && sync "$partial" && mv -f "$partial" "$file"; then
        return
    fi
    rm -f "$partial"
    refuse "$file can't be written; make room (df -h $(dirname "$file")), then type the same again"
}
