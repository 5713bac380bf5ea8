# shellcheck shell=bash
# Stand-ins for NVIDIA's own tools and files, for tests: they do what the scripts rely on, and write down their calls.

# standin_release ROOT MAJOR REVISION: /etc/nv_tegra_release as Jetson Linux has it.
standin_release() {
    mkdir -p "$1/etc"
    printf '# R%s (release), REVISION: %s, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: Mon Jun 16 16:07:13 UTC 2025\n' \
        "$2" "$3" >"$1/etc/nv_tegra_release"
}

# standin_tools ROOT: nvpmodel, jetson_clocks, the modes' file and a serial number.
standin_tools() {
    mkdir -p "$1/usr/sbin" "$1/usr/bin" "$1/var/lib/nvpmodel" "$1/etc" "$1/opt/device-tree"
    cat >"$1/etc/nvpmodel.conf" <<'END'
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
END
    echo 1 >"$1/var/lib/nvpmodel/status"
    cat >"$1/usr/sbin/nvpmodel" <<'END'
#!/bin/bash
case $1 in
-q) echo "NV Power Mode: x"; cat /var/lib/nvpmodel/status ;;
-m)
    echo "nvpmodel $*" >>/var/lib/nvpmodel/calls
    # As on boards where the GPU's parts change: it asks, and without a yes nothing is done.
    if [[ $2 == 2 ]]; then
        echo "NVPM WARN: Reboot required for changing to this power mode: 2. DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
        read -r answer
        [[ ${answer,,} == yes ]] && echo rebooted >>/var/lib/nvpmodel/calls
        exit 0
    fi
    echo "$2" >/var/lib/nvpmodel/status ;;
esac
END
    cat >"$1/usr/bin/jetson_clocks" <<'END'
#!/bin/bash
echo "jetson_clocks $*" >>/var/lib/nvpmodel/calls
[[ $1 != --store ]] || echo stored >"$2"
[[ $1 != --restore ]] || grep -q stored "$2"
END
    chmod +x "$1/usr/sbin/nvpmodel" "$1/usr/bin/jetson_clocks"
    printf '1421122334455\0' >"$1/opt/device-tree/serial-number"
    # first-boot.sh reads the kernel's device tree; emulated, there is none.
    mkdir -p "$1/etc/systemd/system/edge-first-boot.service.d"
    printf '[Service]\nEnvironment=EDGE_DEVICE_TREE=/opt/device-tree\n' >"$1/etc/systemd/system/edge-first-boot.service.d/standin.conf"
}

# standin_tree DIR: Linux_for_Tegra's tools and board configurations; its rootfs is the caller's.
standin_tree() {
    local conf
    mkdir -p "$1/tools/kernel_flash" "$1/rootfs"
    for conf in jetson-orin-nano-devkit jetson-orin-nano-devkit-super jetson-agx-orin-devkit jetson-agx-thor-devkit; do
        touch "$1/$conf.conf"
    done
    cat >"$1/tools/kernel_flash/l4t_initrd_flash.sh" <<'END'
#!/bin/bash
[[ -d tools/kernel_flash && -d rootfs ]] || { echo "not in Linux_for_Tegra" >&2; exit 1; }
printf 'l4t_initrd_flash.sh' >>calls
printf ' [%s]' "$@" >>calls
echo >>calls
[[ ! -e flash-fails ]] || { echo "Error: probing the target board failed." >&2; exit 1; }
END
    cat >"$1/tools/l4t_create_default_user.sh" <<'END'
#!/bin/bash
echo "l4t_create_default_user.sh $*" >>calls
echo "$2:x:1000:1000::/home/$2:/bin/bash" >>rootfs/etc/passwd
END
    chmod +x "$1/tools/kernel_flash/l4t_initrd_flash.sh" "$1/tools/l4t_create_default_user.sh"
}
