# shellcheck shell=bash
# What lies where on a board, and how it gets there. Each function may run again, also after a power cut.

# Unprivileged; in the groups that own cameras (video) and the GPU (video, render).
SERVICE_USER=edge-emotion
OPT=/opt/edge
ETC=/etc/edge
STATE=/var/lib/edge
CACHE=/var/cache/edge
SYSTEM_UNITS=/etc/systemd/system
UNITS=(edge.service edge-engines.service edge-power.service)
INSTALL_FROM=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The service's user reads what root installs, whatever root's own habits are.
umask 022

# need_wheelhouse DIR: it is whole.
need_wheelhouse() {
    [[ -f $1/SHA256SUMS ]] || refuse "$1 is no whole wheelhouse (SHA256SUMS is absent); on a desk with a network type: jetson/wheelhouse.sh $1"
}

# need_python WHEELHOUSE TAG: it was filled for this Python, and nothing in it changed on the way.
need_python() {
    local known
    if [[ ! -f $1/requirements-$2.txt ]]; then
        known=$(cd "$1" && echo requirements-*.txt)
        refuse "$1 was not filled for $2 (it has: $known); on the desk type: jetson/wheelhouse.sh --python 3.${2#cp3}"
    fi
    # Wheels for other Pythons may have stayed on the desk.
    (cd "$1" && sha256sum --quiet --check --ignore-missing SHA256SUMS) ||
        refuse "$1 is damaged (above); copy or fill it again: jetson/wheelhouse.sh"
}

# room_of WHEELHOUSE TAG: MiB that its wheels take when installed, in the version that will be made.
room_of() {
    python3 - "$1" "$2" <<'END'
import pathlib, sys, zipfile

wheels = [w for w in pathlib.Path(sys.argv[1], "wheels").glob("*.whl") if f"-{sys.argv[2]}-" in w.name or "-py" in w.name]
# Bytecode adds about a sixth.
print(sum(member.file_size for wheel in wheels for member in zipfile.ZipFile(wheel).infolist()) * 7 // 6 // 2**20 + 1)
END
}

# make_user: the service's own, with its groups.
make_user() {
    local group
    if ! getent passwd "$SERVICE_USER" >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir "$CACHE" --shell /usr/sbin/nologin "$SERVICE_USER"
    fi
    for group in video render; do
        if getent group "$group" >/dev/null; then usermod --append --groups "$group" "$SERVICE_USER"; fi
    done
    install -d -o "$SERVICE_USER" -g "$SERVICE_USER" -m 0700 "$CACHE"
    install -d -m 0755 "$STATE" "$ETC" "$OPT"
}

# install_package WHEELHOUSE TAG: a version beside the others; it counts when it is whole, and then becomes the current one.
install_package() {
    local wheelhouse=$1 tag=$2 digest target pip
    digest=$(cat "$wheelhouse/SHA256SUMS" "$wheelhouse/requirements-$tag.txt" | sha256sum | cut -c1-16)
    target=$OPT/versions/$digest
    if [[ ! -e $target/.complete ]]; then
        rm -rf "$target"
        mkdir -p "$OPT/versions"
        pip=$(echo "$wheelhouse"/wheels/pip-*.whl)
        # JetPack's Python lacks ensurepip, and alone has TensorRT's bindings.
        /usr/bin/python3 -m venv --system-site-packages --without-pip "$target" ||
            refuse "no virtual environment can be made; type: sudo apt install python3-venv, or make room in $OPT"
        "$target/bin/python" "$pip/pip" install --quiet --disable-pip-version-check --no-index --no-cache-dir \
            --find-links "$wheelhouse/wheels" --requirement "$wheelhouse/requirements-$tag.txt" ||
            refuse "the wheels can't be installed; the reason is above; nothing that ran before was touched"
        # The system's Python may have a package of this name: pip would leave it at that.
        "$target/bin/python" "$pip/pip" install --quiet --disable-pip-version-check --no-index --no-cache-dir \
            --no-deps --ignore-installed "$wheelhouse"/wheels/edge_emotion-*.whl ||
            refuse "the package can't be installed; the reason is above; nothing that ran before was touched"
        sync -f "$target"
        touch "$target/.complete"
    fi
    ln -sfn "$target" "$OPT/.next"
    mv -T "$OPT/.next" "$OPT/current"
    sync -f "$OPT"
}

# install_gpu WHEELHOUSE TAG: PyCUDA, built here, since it must fit this board's CUDA. Without it the CPU does the work.
install_gpu() {
    local wheelhouse=$1 tag=$2 target nvcc home status=0
    target=$(readlink -f "$OPT/current")
    if [[ -e $target/.gpu ]]; then return; fi
    nvcc=$(PATH=$PATH:/usr/local/cuda/bin command -v nvcc) || {
        warn "CUDA's compiler is absent, so the CPU does the work; for the GPU type: sudo apt install cuda-nvcc-12-6 cuda-cudart-dev-12-6 g++ python3-dev (JetPack 6; 13-2 on 7.2), then the same again"
        return
    }
    home=$(mktemp -d)
    # Random numbers on the GPU are not wanted, and their library would be.
    echo "CUDA_ENABLE_CURAND = False" >"$home/.aksetup-defaults.py"
    HOME=$home PATH=$(dirname "$nvcc"):$PATH "$target/bin/python" "$(echo "$wheelhouse"/wheels/pip-*.whl)/pip" install \
        --quiet --disable-pip-version-check --no-index --no-cache-dir \
        --find-links "$wheelhouse/wheels" --find-links "$wheelhouse/sources" --requirement "$wheelhouse/gpu-$tag.txt" || status=$?
    rm -rf "$home"
    if ((status)); then
        warn "PyCUDA can't be built (above), so the CPU does the work; type: sudo apt install g++ python3-dev cuda-cudart-dev-12-6 (13-2 on JetPack 7.2), then the same again"
        return
    fi
    touch "$target/.gpu"
}

# uses_gpu: PyCUDA is there, and the configuration does not ask for the CPU.
uses_gpu() {
    [[ -e $OPT/current/.gpu && $("$OPT/current/bin/python" "$OPT/board/configured.py" backend auto) != onnxruntime ]]
}

# place_files CONFIG BUNDLE: scripts, units; a configuration that is there stays, unless another is given.
place_files() {
    local config=$1 bundle=$2 name file
    install -d "$OPT/board"
    rm -rf "$OPT/board/lib"
    cp -r "$INSTALL_FROM/lib" "$OPT/board/lib"
    install -m 0755 "$INSTALL_FROM"/board/*.sh "$INSTALL_FROM/remove.sh" "$OPT/board/"
    install -m 0644 "$INSTALL_FROM"/board/*.py "$OPT/board/"
    for name in "${UNITS[@]}"; do atomically "$SYSTEM_UNITS/$name" <"$INSTALL_FROM/units/$name"; done
    for file in edge.toml power.conf; do
        [[ -e $ETC/$file ]] || atomically "$ETC/$file" <"$INSTALL_FROM/board/$file"
    done
    if [[ -n $config ]]; then atomically "$ETC/edge.toml" <"$config"; fi
    if [[ -n $bundle ]]; then place_bundle "$bundle"; fi
    if systemd_runs; then systemctl daemon-reload; fi
}

# place_bundle DIR: copied whole; the configuration names it.
place_bundle() {
    local place
    place=$OPT/bundles/$(basename "$1")
    rm -rf "$place.partial"
    mkdir -p "$OPT/bundles"
    cp -r "$1" "$place.partial"
    chmod -R a+rX "$place.partial"
    rm -rf "$place"
    mv "$place.partial" "$place"
    grep -qF "\"$place\"" "$ETC/edge.toml" && return
    if grep -qE '^ *bundle *=' "$ETC/edge.toml"; then
        refuse "$ETC/edge.toml names another bundle; expected in it: bundle = \"$place\"; change that line, then type the same again"
    fi
    { cat "$ETC/edge.toml" && printf 'bundle = "%s"\n' "$place"; } | atomically "$ETC/edge.toml"
}

# as_service COMMAND...: one of the package's commands, as the service's user and with its cache.
as_service() {
    local command=$1
    shift
    runuser -u "$SERVICE_USER" -- env -C / HOME="$CACHE" CACHE_DIRECTORY="$CACHE" "$OPT/current/bin/$command" "$@"
}

# systemd_runs: whether units can be started (not in a root that is only being prepared).
systemd_runs() { [[ -d /run/systemd/system ]]; }

# start_unit NAME: it starts now, also if it ran before with older files; or at the next boot, where systemd does not run.
start_unit() {
    if systemd_runs; then
        systemctl reset-failed "$1" 2>/dev/null || true
        systemctl restart "$1"
    else
        warn "systemd does not run here: $1 will start when this root boots"
    fi
}

# remove_older_versions: what is not current, and what a power cut left.
remove_older_versions() {
    local version current
    current=$(readlink -f "$OPT/current")
    for version in "$OPT"/versions/*; do
        [[ $version == "$current" ]] || rm -rf "$version"
    done
}
