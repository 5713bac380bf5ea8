# shellcheck shell=bash
# Boards by the names people use, and what NVIDIA's flashing tool wants for each (README_initrd_flash.txt, Quick Start).

BOARD_NAMES="orin-nano orin-nano-super orin-nx agx-orin agx-thor"

# board_conf BOARD: its configuration in Linux_for_Tegra, without .conf. Orin NX sits on the Orin Nano's carrier.
board_conf() {
    case $1 in
    orin-nano | orin-nx) echo jetson-orin-nano-devkit ;;
    orin-nano-super) echo jetson-orin-nano-devkit-super ;;
    agx-orin) echo jetson-agx-orin-devkit ;;
    agx-thor) echo jetson-agx-thor-devkit ;;
    *) refuse "unknown board $1; expected one of: $BOARD_NAMES" ;;
    esac
}

# board_arguments BOARD: l4t_initrd_flash.sh's, one a line. Orin Nano and NX boot from NVMe with QSPI for the firmware;
# AGX Orin from its eMMC, Thor from the NVMe that its own configuration names.
board_arguments() {
    case $1 in
    orin-nano | orin-nano-super | orin-nx)
        printf '%s\n' --external-device nvme0n1p1 -c tools/kernel_flash/flash_l4t_t234_nvme.xml \
            -p "-c bootloader/generic/cfg/flash_t234_qspi.xml"
        ;;
    esac
    printf '%s\n' --showlogs --network usb0
}

# board_releases BOARD RELEASE: refuses a Jetson Linux that is not for this board.
board_releases() {
    case $1:$2 in
    agx-thor:36.*) refuse "Jetson Linux $2 is for Orin alone; expected 38 or 39 for $1; unpack that one" ;;
    orin-*:38.* | agx-orin:38.*) refuse "Jetson Linux $2 is for Thor alone; expected 36.4 or 39 for $1; unpack that one" ;;
    esac
}

# board_usb_ids BOARD: product numbers in recovery mode (vendor 0955), as lsusb shows them.
board_usb_ids() {
    case $1 in
    orin-*) echo "7323 7423 7523 7623" ;;
    agx-orin) echo "7023 7223" ;;
    agx-thor) echo "7026" ;;
    esac
}
