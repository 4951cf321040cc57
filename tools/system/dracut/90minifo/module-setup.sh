#!/bin/bash
# minifo: a module for dracut that overlays the root file system; asked for by add_dracutmodules+=" minifo ".
# shellcheck disable=SC2154  # moddir is dracut's

check() {
    return 255 # only if it is asked for
}

depends() {
    echo base
}

install() {
    inst_multiple chroot mount umount mkdir ln cat sleep
    inst_simple "$moddir/minifo-root.sh" /lib/minifo-root.sh
    # After all that mounts something in the new root, and before anything looks at it; with systemd and without.
    inst_hook pre-pivot 05 "$moddir/minifo-pre-pivot.sh"
}
