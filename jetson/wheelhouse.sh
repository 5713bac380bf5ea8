#!/usr/bin/env bash
# Fill a wheelhouse on the desk: everything that boards install, for aarch64, to be installed without a network.
set -euo pipefail

PROGRAM=wheelhouse.sh
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=jetson/lib/say.sh
source "$HERE/lib/say.sh"

# The oldest C library among the boards' (JetPack 6: Ubuntu 22.04) decides what fits.
GLIBC_MINOR=35
MACHINE=aarch64
# What has no wheels, and is Python alone: built on the desk. A pattern.
PURE_SOURCE="face.recognition.models"

usage() {
    cat <<END
usage: jetson/wheelhouse.sh [DIR]

Fills DIR (default: dist/wheelhouse) for the Pythons of JetPack 6 (3.10) and 7 (3.12). Needs a network.

  --python V,V      other Pythons (default: 3.10,3.12)
  --extras E,E      extras of the package (default: preview)
  --machine NAME    another processor (default: aarch64)
END
}

main() {
    local folder="" pythons=3.10,3.12 extras=preview
    while (($#)); do
        case $1 in
        --python) need_value "$1" $# && pythons=$2 && shift ;;
        --extras) need_value "$1" $# && extras=$2 && shift ;;
        --machine) need_value "$1" $# && MACHINE=$2 && shift ;;
        -h | --help) usage && exit 0 ;;
        -*) refuse "unknown option $1; type: jetson/wheelhouse.sh --help" ;;
        *) [[ -z $folder ]] || refuse "one folder is filled at a time, not also $1" && folder=$1 ;;
        esac
        shift
    done
    folder=${folder:-dist/wheelhouse}
    local pythons_given=()
    IFS=, read -ra pythons_given <<<"$pythons"
    for python in "${pythons_given[@]}"; do
        [[ $python =~ ^3\.1[0-9]$ ]] || refuse "--python $python: expected versions such as 3.10,3.12"
    done

    # Filled beside its place and then renamed: a wheelhouse that is there is whole.
    local work
    mkdir -p "$(dirname "$folder")" || refuse "$folder can't be made; name a folder that you may write"
    work=$(mktemp -d "$folder.XXXXXX.partial")
    # shellcheck disable=SC2064  # the folder's name as it is now
    trap "rm -rf '$work'" EXIT
    tools "$work"
    own_wheel "$work"
    for python in "${pythons_given[@]}"; do
        locked "$work" "$python" "requirements" "edge-emotion[$extras] @ file://$(realpath "$work"/wheels/edge_emotion-*.whl)"
        locked "$work" "$python" "gpu" "pycuda>=2024.1" "setuptools>=77" wheel
        download "$work" "$python"
    done
    installer "$work"
    for python in "${pythons_given[@]}"; do
        complete "$work" "$python"
    done
    finish "$work" "$folder"
}

# tools WORK: what the desk needs: a builder, and a resolver that knows other Pythons and processors than its own.
tools() {
    say "preparing the desk's tools"
    "${PYTHON:-python3}" -m venv "$1/.tools" || refuse "no venv can be made; type: sudo apt install python3-venv"
    online "$1/.tools/bin/python" -m pip install --quiet --disable-pip-version-check build uv "pip>=24" "setuptools>=77" wheel
    mkdir "$1/wheels" "$1/sources"
}

# own_wheel WORK: the package itself, from this checkout.
own_wheel() {
    say "building the package"
    # A copy, because setuptools would put yesterday's build folder into today's wheel.
    mkdir "$1/.source"
    tar -C "$HERE/.." --exclude=__pycache__ -cf - pyproject.toml README.md LICENSE edge train export benchmarks |
        tar -C "$1/.source" -xf -
    "$1/.tools/bin/python" -m build --wheel --no-isolation --outdir "$1/wheels" "$1/.source" >"$1/.log" 2>&1 || {
        tail -n 20 "$1/.log" >&2
        refuse "the package can't be built; the reason is above"
    }
}

# locked WORK PYTHON NAME REQUIREMENT...: every version, found for the board's Python and processor, markers included.
locked() {
    local list=$1/$3-cp${2/./}.txt
    say "choosing versions for Python $2 on $MACHINE ($3)"
    printf '%s\n' "${@:4}" |
        online "$1/.tools/bin/uv" pip compile --quiet --no-header --no-annotate \
            --python-version "$2" --python-platform "$MACHINE-manylinux_2_$GLIBC_MINOR" - >"$1/.lock"
    # The package itself by its name: on the board its path is another.
    { sed -nE 's/^(edge-emotion[^ ]*) @.*/\1/p' <<<"$4" && grep -v '^edge-emotion' "$1/.lock"; } >"$list"
}

# download WORK PYTHON: the wheels of both locks. Pure Python source is built here; PyCUDA on the board, beside its CUDA.
download() {
    local platforms=() minor line lists=("$1/requirements-cp${2/./}.txt" "$1/gpu-cp${2/./}.txt")
    for minor in $(seq $GLIBC_MINOR -1 17); do platforms+=(--platform "manylinux_2_${minor}_$MACHINE"); done
    platforms+=(--platform "manylinux2014_$MACHINE")
    say "fetching wheels for Python $2"
    # Each lock by itself: they may name two versions of one package.
    for line in "${lists[@]}"; do
        grep -vE "^(edge-emotion|$PURE_SOURCE|pycuda)\b" "$line" >"$1/.wanted"
        pip_of "$1" download --no-deps --only-binary :all: --python-version "$2" --implementation cp \
            "${platforms[@]}" --dest "$1/wheels" --requirement "$1/.wanted" >"$1/.log" 2>&1 || unfetched "$1" "$2"
    done
    while read -r line; do
        pip_of "$1" wheel --no-deps --no-build-isolation --wheel-dir "$1/built" "$line" >"$1/.log" 2>&1 || unfetched "$1" "$2"
        compgen -G "$1/built/*-none-any.whl" >/dev/null || refuse "$line: its source is not pure Python, and it has no wheel for $MACHINE; choose a version that has one"
        mv "$1"/built/*.whl "$1/wheels/"
    done < <(grep -hE "^($PURE_SOURCE)\b" "${lists[@]}")
    pip_of "$1" download --no-deps --no-binary pycuda --dest "$1/sources" "$(grep '^pycuda=' "${lists[1]}")" >"$1/.log" 2>&1 ||
        unfetched "$1" "$2"
}

# unfetched WORK PYTHON: the last words, and ours.
unfetched() {
    tail -n 5 "$1/.log" >&2
    refuse "a package has neither a wheel for Python $2 on $MACHINE nor a source that can be built (above); check the network, or change the version in pyproject.toml"
}

# installer WORK: JetPack's Python comes without ensurepip, so pip travels along.
installer() {
    pip_of "$1" download --no-deps --only-binary :all: --dest "$1/wheels" "pip>=24" >"$1/.log" 2>&1 ||
        refuse "pip's own wheel can't be fetched; check the network, then type the same again"
}

# complete WORK PYTHON: an installation from these wheels alone is worked out, as the board will.
complete() {
    say "checking that nothing is missing for Python $2"
    "$1/.tools/bin/uv" pip install --quiet --dry-run --offline --no-index --find-links "$1/wheels" --target "$1/.none" \
        --python-version "$2" --python-platform "$MACHINE-manylinux_2_$GLIBC_MINOR" \
        --requirements "$1/requirements-cp${2/./}.txt" 2>"$1/.log" || {
        cat "$1/.log" >&2
        refuse "the wheelhouse is not complete for Python $2; the reason is above"
    }
}

# finish WORK FOLDER: sums, then the name.
finish() {
    rm -rf "$1"/.[a-z]* "$1/built"
    local sums
    sums=$(cd "$1" && find . -type f -printf '%P\n' | sort | xargs -d '\n' sha256sum)
    echo "$sums" >"$1/SHA256SUMS"
    chmod 0755 "$1"
    rm -rf "$2"
    mv "$1" "$2"
    trap - EXIT
    say "$2: $(find "$2/wheels" -name '*.whl' | wc -l) wheels, $(du -sm "$2" | cut -f1) MiB"
}

pip_of() { "$1/.tools/bin/python" -m pip --disable-pip-version-check "${@:2}"; }

# online COMMAND...: a command that fails without a network is told so.
online() { "$@" || refuse "$(basename "$1") failed; the reason is above (no network? try again with one)"; }

main "$@"
