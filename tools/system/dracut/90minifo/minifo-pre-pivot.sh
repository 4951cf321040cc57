#!/bin/sh
# minifo: overlays the root file system if the kernel's command line says so (see minifo-root.sh).

command -v emergency_shell >/dev/null || . /lib/dracut-lib.sh

minifo_find() (
    case $1 in
        LABEL=* | UUID=* | PARTLABEL=* | PARTUUID=*) device=$(label_uuid_to_dev "$1") ;;
        *) device=$1 ;;
    esac
    udevadm settle --timeout=10
    waited=0
    until [ -b "$device" ]; do
        [ "$waited" -lt "$2" ] || return 1
        sleep 1
        waited=$((waited + 1))
    done
    echo "$device"
)

minifo_shell() {
    emergency_shell -n minifo "$1"
}

# In a shell of its own, for dracut reads its hooks into one.
(
    . /lib/minifo-root.sh
    # A systemd has made the mounts shared, and such ones cannot be moved.
    mount --make-rprivate /
    # shellcheck disable=SC2154  # dracut's
    overlay_root "$NEWROOT"
)
