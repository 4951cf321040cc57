# shellcheck shell=sh
# minifo: overlays the root file system of a system that starts; read by the scripts for initramfs-tools and dracut.
#
# The initramfs has mounted the root file system, which becomes the base.  This script mounts the storage, starts minifo
# out of the base, and puts the overlay in the place of the root.  What it does is said on the kernel's command line:
#
#   minifo.root=WHERE    LABEL=, UUID=, PARTLABEL=, PARTUUID= or /dev/...: the file system with the storage; then :/DIR
#                        for a directory in it.  off: do nothing
#   minifo.ro            change nothing on disk
#   minifo.reset         take all changes back before; they are kept as a checkpoint
#   minifo.trial[=N]     after N boots (1) without minifo confirm the next one falls back
#   minifo.options=...   other mount options than copy_up=whole
#   minifo.wait=N        wait up to N seconds (30) for the storage's device
#   minifo.fail=WHAT     if that cannot be done: shell, ro (the base, read-only; the default), base (the base as it is)
#
# An initramfs may have no more than klibc's or busybox's programs: here are the shell's own words, and mount, umount,
# mkdir, ln and chroot.  All else comes from the base.  Who reads this file defines two functions:
#
#   minifo_find SPEC SECONDS    wait for a device, and print its path; fail if there is none
#   minifo_shell WORDS          a shell on the console; to return from it means to try again

m_dir=/run/minifo # moves with /run into the new root; minifo has its redo log there
m_base=$m_dir/base
m_start=$m_dir/start # what is mounted in it shows in the namespace of the daemon and in that of the system
m_units=/run/systemd/system
m_known="minifo.root= .ro .reset .trial .options= .wait= .fail="

# overlay_root ROOT: do what the command line says; ROOT is where the initramfs has mounted the root file system
overlay_root() {
    set -f # words of the command line are no patterns
    m_pid='' m_new='' m_was_writable=''
    m_read_words
    [ -n "$m_any" ] || return 0
    if [ "$m_where" = off ] && [ -z "$m_wrong" ]; then
        m_say 5 "the root is not overlaid, for the kernel's command line says minifo.root=off"
        return 0
    fi
    while ! m_overlay "$1"; do
        [ "$m_fail" = shell ] || m_undo
        m_say 2 "the root is NOT overlaid: $m_what"
        [ -z "$m_why" ] || m_tell 2 "$m_why"
        m_say 2 "what to do: $m_next"
        mkdir -p "$m_dir"
        printf '%s\n' "The root is not overlaid: $m_what" "$m_why" "What to do: $m_next" >$m_dir/failed
        case $m_fail in
            shell)
                m_say 2 "minifo.fail=shell: here is a shell; its end tries again"
                minifo_shell "the root is not overlaid: $m_what"
                m_undo
                continue
                ;;
            ro)
                m_say 2 "minifo.fail=ro: going on without the overlay; the base is read-only, and no change is kept"
                mount -n -o remount,ro none "$1" || m_say 2 "the base cannot be made read-only"
                m_write_fstab "$1"
                ;;
            base)
                m_say 2 "minifo.fail=base: going on without the overlay; changes go into the base"
                [ -z "$m_was_writable" ] || mount -n -o remount,rw none "$1" ||
                    m_say 2 "the base cannot be made writable again"
                ;;
        esac
        m_write_unit "The root is not overlaid by minifo" "/bin/sh -c 'cat $m_dir/failed >&2; exit 1'" /bin/true
        return 0
    done
}

# -- what is said

# m_say LEVEL TEXT: to the kernel's log, and with it to all consoles; LEVEL as in syslog(3), quiet lets less than 4 pass
m_say() {
    echo "<$1>minifo: $2" >/dev/kmsg
    read -r m_level _ </proc/sys/kernel/printk
    [ "$1" -lt "$m_level" ] || [ "$1" -gt 3 ] || echo "minifo: $2" >/dev/console
}

# m_tell LEVEL TEXT: say what a program has said, line by line
m_tell() {
    printf '%s\n' "$2" | while read -r m_line; do
        [ -z "$m_line" ] || m_say "$1" "${m_line#minifo: }"
    done
}

# m_because WHAT WHY NEXT: fail
m_because() {
    m_what=$1 m_why=$2 m_next=$3
    return 1
}

# -- what is wanted

m_read_words() {
    m_any='' m_where='' m_ro='' m_reset='' m_trial='' m_options=copy_up=whole m_wait=30 m_fail=ro m_wrong=''
    read -r m_line </proc/cmdline
    for m_word in $m_line; do
        case $m_word in
            minifo.*) m_any=1 ;;
        esac
        case $m_word in
            minifo.root=*) m_where=${m_word#*=} ;;
            minifo.ro) m_ro=1 ;;
            minifo.reset) m_reset=1 ;;
            minifo.trial) m_trial=1 ;;
            minifo.trial=[1-9] | minifo.trial=[1-9][0-9]) m_trial=${m_word#*=} ;;
            minifo.options=?*) m_options=${m_word#*=} ;;
            minifo.wait=[0-9] | minifo.wait=[1-9][0-9] | minifo.wait=[1-9][0-9][0-9]) m_wait=${m_word#*=} ;;
            minifo.fail=shell | minifo.fail=ro | minifo.fail=base) m_fail=${m_word#*=} ;;
            minifo.*) m_wrong="$m_word is not known; there are $m_known" ;;
        esac
    done
    m_spec=${m_where%%:/*} m_sub=''
    [ "$m_spec" = "$m_where" ] || m_sub=/${m_where#*:/}
    case $m_spec in
        off | LABEL=?* | UUID=?* | PARTLABEL=?* | PARTUUID=?* | /dev/?*) ;;
        '') m_wrong=${m_wrong:-there is no minifo.root=} ;;
        *) m_wrong=${m_wrong:-minifo.root=$m_where is none of off, LABEL=, UUID=, PARTLABEL=, PARTUUID=, /dev/} ;;
    esac
    case $m_sub/ in
        */../*) m_wrong=${m_wrong:-minifo.root=$m_where has .. in its directory} ;;
    esac
    [ -z "$m_ro" ] || [ -z "$m_reset$m_trial" ] ||
        m_wrong=${m_wrong:-minifo.ro changes nothing, so it excludes minifo.reset and minifo.trial}
}

# -- the overlay

# m_overlay ROOT: overlay it; or fail, with m_what, m_why and m_next set and some mounts left for m_undo
m_overlay() {
    [ -z "$m_wrong" ] || m_because "the kernel's command line is wrong" "$m_wrong" \
        "correct it in the boot loader; minifo.root=off boots without the overlay" || return 1
    m_enter_base "$1" || return 1
    m_mount_storage || return 1
    m_mount || return 1
    m_show "$1" || m_because "the overlay cannot be mounted at the root" "" "report this as a bug" || return 1
    m_write_fstab "$1"
    m_write_unit "The root is overlaid by minifo" /bin/true \
        "/bin/sh -c 'sync; kill -TERM $m_pid; sync /'"
    m_say 5 "the root is overlaid; its changes are in $m_device$m_sub"
}

# m_in_base COMMAND...: run it with the base as its root directory
m_in_base() {
    chroot $m_base /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" </dev/null
}

# m_enter_base ROOT: mount the base once more, with what the programs in it need
m_enter_base() {
    mkdir -p $m_dir/base $m_dir/storage $m_start/root
    for m_name in dev proc run sys; do
        [ -d "$1/$m_name" ] || m_because "the root file system has no directory /$m_name" "" "make it there" || return 1
    done
    ! m_is_writable "$1" || m_was_writable=1
    mount -n -o remount,ro none "$1"
    mount -n -o bind "$1" $m_base &&
        mount -n -o bind /dev $m_base/dev &&
        mount -n -o bind /run $m_base/run &&
        mount -n -t proc proc $m_base/proc &&
        mount -n -t sysfs sysfs $m_base/sys &&
        mount -n -o bind $m_base $m_base$m_base &&
        { ! m_is_mounted "$1/usr" || mount -n -o bind "$1/usr" $m_base/usr; } &&
        m_in_base mount --bind $m_start $m_start &&
        m_in_base mount --make-shared $m_start ||
        m_because "the base cannot be mounted again" "" "look at the kernel's messages (dmesg)" || return 1
    m_in_base sh -c "command -v minifo" >/dev/null || m_because "minifo is not installed in the root file system" \
        "" "install it there" || return 1
    m_in_base modprobe fuse 2>/dev/null # or it is in the kernel
    [ -c /dev/fuse ] || m_because "the kernel has no FUSE" "$(m_in_base modprobe fuse 2>&1)" \
        "install a kernel with CONFIG_FUSE_FS, or its modules" || return 1
}

m_mount_storage() {
    m_device=$(minifo_find "$m_spec" "$m_wait") || m_because "there is no $m_spec" \
        "no such file system appeared within $m_wait seconds" \
        "attach the disk with the storage; blkid lists what is there" || return 1
    m_type=$(m_in_base blkid -p -o value -s TYPE "$m_device") || m_because "$m_device cannot be used as storage" \
        "it has no file system that is known" \
        "make one if nothing is lost by that: mkfs.ext4 -L data $m_device" || return 1
    m_in_base modprobe -q "$m_type" # or it is in the kernel
    m_flags=noatime${m_ro:+,ro}
    if [ -z "$m_ro" ] && m_in_base sh -c "command -v fsck.$m_type" >/dev/null; then
        m_said=$(m_in_base "fsck.$m_type" -a "$m_device" 2>&1)
        case $? in
            0) ;;
            1) m_tell 3 "the file system of the storage was repaired: $m_said" ;;
            *)
                m_because "the file system of the storage, $m_device, needs repair" "$m_said" \
                    "boot with minifo.fail=shell; in the shell: chroot $m_base fsck -y $m_device; exit"
                return 1
                ;;
        esac
    fi
    m_said=$(m_in_base mount -t "$m_type" -o "$m_flags" "$m_device" $m_dir/storage 2>&1) &&
        mount -n -o bind $m_base$m_dir/storage $m_dir/storage || m_because "$m_device cannot be mounted" "$m_said" \
        "look at the kernel's messages (dmesg)" || return 1
    m_sto=$m_dir/storage$m_sub
    if [ ! -e "$m_sto/minifo.db" ] && [ -z "$m_ro" ]; then
        m_said=$(mkdir -p "$m_sto" 2>&1) ||
            m_because "the storage $m_sub cannot be made in $m_device" "$m_said" "make room there" || return 1
        m_new=1
    fi
}

# m_mount: let a daemon mount the overlay.  It has a mount namespace of its own: what a systemd unmounts when it leaves the
# initramfs, and at shutdown, stays there for it.
m_mount() {
    if [ -n "$m_reset" ] && [ -e "$m_sto/minifo.db" ]; then
        m_said=$(m_in_base minifo reset --base $m_base "$m_sto" 2>&1) || m_because "the storage cannot be reset" \
            "$m_said" "boot without minifo.reset" || return 1
        m_tell 3 "minifo.reset: $m_said"
    fi
    m_said=$(m_in_base unshare --mount --propagation unchanged minifo mount --base $m_base --sto "$m_sto" \
        -o "rootfs,root_storage,$m_options${m_ro:+,ro}${m_trial:+,trial=$m_trial}" $m_start/root 2>&1) ||
        m_because "minifo cannot mount the overlay" "$m_said" \
            "put that right, or boot with minifo.root=off; minifo fsck and minifo doctor know more" || return 1
    m_tell 3 "$m_said"
    [ -z "$m_new" ] || m_say 3 "a new overlay begins: there was none in $m_device$m_sub"
    read -r m_pid _ <"$m_sto/lock"
    # A systemd in the initramfs kills what is left of the unit that has run this script.
    if [ -w /sys/fs/cgroup/cgroup.procs ]; then
        read -r m_children <"/proc/$m_pid/task/$m_pid/children"
        for m_number in $m_pid $m_children; do
            echo "$m_number" >/sys/fs/cgroup/cgroup.procs
        done
    fi
}

# m_is_mounted PATH
m_is_mounted() {
    while read -r _ m_name _; do
        [ "$m_name" != "$1" ] || return 0
    done </proc/mounts
    return 1
}

# m_is_writable PATH: what is mounted there last
m_is_writable() {
    m_code=1
    while read -r _ m_name _ m_how _; do
        [ "$m_name" = "$1" ] || continue
        case ,$m_how, in
            *,rw,*) m_code=0 ;;
            *) m_code=1 ;;
        esac
    done </proc/mounts
    return $m_code
}

# m_show ROOT: put the overlay in the place of the root; a /usr of its own shows as it is
m_show() {
    m_in_base mount --make-private $m_start || return 1 # from now on each namespace is on its own
    mount -n -o bind $m_base$m_start/root "$1" || return 1
    ! m_is_mounted $m_base/usr || mount -n -o bind $m_base/usr "$1/usr" || return 1
    m_leave_base
}

# m_leave_base: unmount what programs in the base needed, as far as it is mounted
m_leave_base() {
    for m_name in $m_start/root $m_start $m_dir/storage $m_base /run /dev /proc /sys /usr; do
        umount "$m_base$m_name" 2>/dev/null
    done
    :
}

# m_undo: unmount everything; a daemon that runs ends by that
m_undo() {
    [ -z "$m_pid" ] || kill -INT "$m_pid"
    m_pid=''
    m_leave_base
    umount $m_base 2>/dev/null
    umount $m_dir/storage 2>/dev/null
    :
}

# -- what the system is told, in memory only

# m_write_fstab ROOT: let systemd not remount / as its fstab says, for that line is about the base
m_write_fstab() {
    [ ! -e "$1/etc/fstab" ] || while IFS= read -r m_line; do
        # shellcheck disable=SC2086  # its fields
        set -- $m_line
        case ${1-} in
            '#'*) ;;
            *) [ "${2-}" != / ] || continue ;;
        esac
        printf '%s\n' "$m_line"
    done <"$1/etc/fstab" >$m_dir/fstab
    mkdir -p $m_units/systemd-remount-fs.service.d
    printf '%s\n' "[Service]" "Environment=SYSTEMD_FSTAB=$m_dir/fstab" >$m_units/systemd-remount-fs.service.d/minifo.conf
}

# m_write_unit DESCRIPTION START STOP: a unit that shows how the root is; at shutdown, STOP comes after all that others stop
m_write_unit() {
    mkdir -p $m_units/sysinit.target.wants
    cat >$m_units/minifo-root.service <<UNIT
# made by the initramfs at boot
[Unit]
Description=$1
DefaultDependencies=no
Conflicts=shutdown.target
Before=sysinit.target shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$2
ExecStop=$3
UNIT
    ln -sf ../minifo-root.service $m_units/sysinit.target.wants/minifo-root.service
}
