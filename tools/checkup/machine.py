"""The kernel, its FUSE, and what the machine allows this user (``minifo doctor``)."""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import resource
import shutil
import stat
from pathlib import PurePosixPath

from ...engine.store.memory_directory import LOG_MAX, expected_memory_directory
from ...engine.store.syscalls import clone_mount, has_openat2
from ...fusefront.mount import fuse_access, mount_table, utab
from ...fusefront.process import descriptor_limits, privileges
from .._size import size
from . import fstab
from .child import NoAnswer, answer_of
from .finding import Check, Finding, note, ok, problem

_FUSE_CONF = "/etc/fuse.conf"
_MTAB = "/etc/mtab"
_MEMORY_MIN = 64 << 20  # bytes; a daemon takes 43 MiB at its start (docs/performance.md)
_SPACE_MIN = 512 << 20  # bytes of addresses, twice of what a daemon was seen to map
_WALK = "minifo opens the base step by step, which is slower; the mount shows the same"


def checks() -> list[Check]:
    """Return the checks, in the order in which they are shown."""
    return [
        Check("system", _system),
        Check("kernel", _kernel),
        Check("base protection", _base_protection),
        Check("user", _user),
        Check("FUSE", _fuse),
        Check("/dev/fuse", _device),
        Check("fusermount3", _fusermount),
        Check("fuse.conf", _fuse_conf),
        Check("mtab", _mtab),
        Check("umount", _umount),
        Check("mounts", _mounts),
        Check("fstab", fstab.overlays),
        Check("memory for redo", _redo_memory),
        Check("memory", _memory),
        Check("limits", _limits),
        Check("descriptors", _descriptors),
        Check("user namespaces", _user_namespaces),
        Check("Landlock", _landlock),
    ]


def _system() -> Finding:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = "an unnamed distribution"
    return ok("system", f"{name}, {platform.machine()}")


def _kernel() -> Finding:
    release = f"{platform.system()} {platform.release()}"
    if has_openat2():
        return ok("kernel", release)
    remedy = f"use Linux 5.6 or newer, or a container engine that permits the call; until then {_WALK}"
    return note("kernel", f"{release}, in which openat2(2) does not work", remedy)


def _base_protection() -> Finding:
    """Whether root gets the base as a private read-only clone of its mount; it is detached, and gone at once."""
    name = "base protection"
    if os.geteuid() != 0:
        return ok(name, "not for users other than root: the base is opened for reading only")
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(clone_mount(fd))
    except OSError as error:
        remedy = f"use Linux 5.12 or newer, with CAP_SYS_ADMIN and outside of a user namespace; until then {_WALK}"
        return note(name, f"the base's mount cannot be cloned ({error.strerror})", remedy)
    finally:
        os.close(fd)
    return ok(name, "the kernel keeps the base read-only, through a clone of its mount")


def _user() -> Finding:
    uid = os.geteuid()
    try:
        who = pwd.getpwuid(uid).pw_name
    except KeyError:
        who = f"user {uid}"
        if uid != 0:
            remedy = "give the user a line in /etc/passwd: fusermount3 serves no other, so only root can mount"
            return problem("user", f"{who}, who has no name", remedy)
    if uid != 0:
        return ok("user", f"{who}, who mounts through fusermount3")
    if _in_user_namespace():
        who += " of a user namespace"
    missing = privileges.missing_capabilities()
    if not missing:
        return ok("user", f"{who}, with all capabilities that a mount uses")
    remedy = "give the container these capabilities (--cap-add)"
    fact = f"{who} without {', '.join(missing)}"
    return problem("user", fact, remedy) if "CAP_SYS_ADMIN" in missing else note("user", fact, remedy)


def _in_user_namespace() -> bool:
    """Return whether this is not the first user namespace, which maps every id to itself (user_namespaces(7))."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != ["0", "0", str(2**32 - 1)]


def _fuse() -> Finding:
    with open("/proc/filesystems", encoding="ascii") as file:
        known = any(line.split()[-1:] == ["fuse"] for line in file)
    if known:
        return ok("FUSE", "the kernel has it")
    return problem("FUSE", "the kernel does not have it loaded", "as root: modprobe fuse")


def _device() -> Finding:
    fuse_access.check_device()  # what it raises is the finding
    return ok(fuse_access.DEVICE, "can be opened")


def _fusermount() -> Finding:
    name = fuse_access.FUSERMOUNT
    path = fuse_access.fusermount()
    if os.geteuid() == 0:
        if path is not None:
            return ok(name, f"{path}, for users other than root")
        return note(name, "not installed: root alone can mount", "for other users: install the package fuse3")
    fuse_access.check_fusermount()
    assert path is not None
    st = os.stat(path)
    if not st.st_mode & stat.S_ISUID or st.st_uid != 0:
        return problem(
            name, f"{path} is not set-uid root, so it cannot mount", f"as root: chown 0 {path}; chmod u+s {path}"
        )
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return problem(
            name, f"{path} is on a file system that is mounted nosuid", "mount that with suid, or mount as root"
        )
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        if any(line.split() == ["NoNewPrivs:", "1"] for line in file):
            remedy = "leave it (a container's no-new-privileges, a service's NoNewPrivileges=), or mount as root"
            return problem(name, "this process may gain no privileges, so set-uid programs have no effect", remedy)
    return ok(name, f"{path}, set-uid root")


def _fuse_conf() -> Finding:
    name = "fuse.conf"
    try:
        with open(_FUSE_CONF, encoding="utf-8", errors="replace") as file:
            allowed = any(line.strip() == "user_allow_other" for line in file)
    except FileNotFoundError:
        allowed = False
    if allowed:
        return ok(name, "user_allow_other is set: every user may mount with -o allow_other")
    fact = "user_allow_other is not set"
    if os.geteuid() == 0:
        return ok(name, f"{fact}: root alone may let other users enter a mount")
    return note(
        name,
        f"{fact}: no other user, not even root, may enter your mounts",
        f"add it to {_FUSE_CONF}, if you want that",
    )


def _mtab() -> Finding:
    real = os.path.realpath(_MTAB)
    if real.startswith("/proc/"):
        return ok("mtab", f"{_MTAB} is what the kernel says")
    remedy = f"as root: ln -sf /proc/self/mounts {_MTAB}"
    if not os.path.exists(_MTAB):
        return note("mtab", f"{_MTAB} does not exist: some programs see no mounts", remedy)
    return note("mtab", f"{_MTAB} is a file: mounts whose daemon was killed stay in it", remedy)


def _umount() -> Finding:
    """Whether umount(8) of root calls minifo's helper, which waits for the last commit (fusefront/mount/utab.py)."""
    if os.geteuid() != 0:
        return ok("umount", "other users than root unmount by minifo umount")
    path = shutil.which("umount")
    remedy = "unmount with minifo umount, which waits"
    if path is None:
        return note("umount", "umount(8) is not installed", remedy)
    early = "it returns before the last commit is durable"
    if os.path.basename(os.path.realpath(path)) == "busybox":
        return note("umount", f"{path} is that of busybox: {early}", remedy)
    if not utab.has_library():
        return note("umount", f"{path} cannot be told to call a helper, for libmount is missing: {early}", remedy)
    return ok("umount", f"{path} can be told to call a helper that waits for the last commit")


def _mounts() -> Finding:
    """How many overlays this process sees; a child looks, for the daemon of one may hang."""

    def look() -> list[str]:
        return [entry.mountpoint for entry in mounted if mount_table.is_dead(entry.mountpoint)]

    mounted = mount_table.minifo_mounts()
    try:
        dead = answer_of(look) if mounted else []
    except NoAnswer as error:
        return problem("mounts", f"a mount does not answer ({error.message})", "see the system log of its daemon")
    if dead:
        clear = "; ".join(mount_table.clear_command(path) for path in dead)
        return problem("mounts", f"the daemon has ended of: {', '.join(dead)}", f"{clear}; then mount again")
    return ok("mounts", f"{len(mounted)} overlays are mounted" if len(mounted) != 1 else "1 overlay is mounted")


def _redo_memory() -> Finding:
    name = "memory for redo"
    directory = expected_memory_directory()
    if directory is None:
        remedy = "mount a tmpfs at /dev/shm, or at /run for root; until then each change is committed by itself"
        return note(name, "there is no directory in memory that only this user may write to", remedy)
    there = directory if os.path.isdir(directory) else os.path.dirname(directory)
    figures = os.statvfs(there)
    if not figures.f_blocks:
        return ok(name, f"{directory}, without a limit")  # ramfs
    free = figures.f_bavail * figures.f_frsize
    if free < LOG_MAX or (figures.f_files and not figures.f_favail):
        remedy = f"free some space there; a mount wants {size(LOG_MAX)}, and commits each change by itself without it"
        return problem(name, f"{there} is full: {size(free)} free", remedy)
    return ok(name, f"{directory}, {size(free)} free")


def _memory() -> Finding:
    with open("/proc/meminfo", encoding="ascii") as file:
        figures = {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}
    available, total = figures.get("MemAvailable", figures["MemFree"]), figures["MemTotal"]
    fact = f"{size(available)} of {size(total)} available"
    limit = _cgroup_limit()
    if limit is not None and limit < total:
        fact += f"; this control group may take {size(limit)}"
        available = min(available, limit)
    if available < _MEMORY_MIN:
        return note(
            "memory", fact, f"give it more: a daemon takes {size(_MEMORY_MIN)} about; max_names= bounds the rest"
        )
    return ok("memory", fact)


def _cgroup_limit() -> int | None:
    """Return how much memory the control group of this process may take, and those above it; None for no limit."""
    found = []
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    for _, controllers, path in lines:
        if not controllers:
            top, name = "/sys/fs/cgroup", "memory.max"  # cgroups(7), version 2
        elif "memory" in controllers.split(","):
            top, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        for group in (path, *map(str, PurePosixPath(path).parents)):
            # a group whose controller is off has no such file, nor has the root
            with contextlib.suppress(OSError), open(f"{top}{group}/{name}", encoding="ascii") as file:
                text = file.read().strip()
                found += [int(text)] if text.isdigit() else []
    return min(found, default=None)


def _limits() -> Finding:
    """The limits of a process that a daemon inherits, but for the descriptors."""
    space, largest = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE))
    if 0 <= space < _SPACE_MIN:
        remedy = f"ulimit -v unlimited (LimitAS=): a daemon wants {size(_SPACE_MIN)}"
        return note("limits", f"a process may map {size(space)}", remedy)
    if largest >= 0:
        return note("limits", f"a file may have {size(largest)}", "ulimit -f unlimited (LimitFSIZE=), for larger files")
    return ok("limits", "none of memory and of file sizes")


def _descriptors() -> Finding:
    number, enough = descriptor_limits.reachable()
    if enough:
        return ok("descriptors", f"{number:,} for a daemon")
    remedy = "raise the hard limit (ulimit -Hn, LimitNOFILE=): files are opened and closed more often"
    return note("descriptors", f"{number:,} for a daemon", remedy)


def _user_namespaces() -> Finding:
    from ...fusefront.sandbox.namespaces import enter_user_namespace

    name = "user namespaces"
    if os.geteuid() == 0:
        return ok(name, "root needs none for minifo run")
    try:
        answer_of(enter_user_namespace)
    except NoAnswer as error:
        return note(name, error.message, "only minifo run needs one: see 'Who may use it' in docs/run.md")
    return ok(name, "this user may make one, as minifo run does")


def _landlock() -> Finding:
    try:
        return ok("Landlock", f"version {privileges.landlock_version()}: a daemon can write to its storage only")
    except OSError as error:
        remedy = (
            "boot Linux 5.19 or newer with landlock in lsm=; a daemon works without it, with more rights than it needs"
        )
        return note("Landlock", f"the kernel does not offer it ({error.strerror})", remedy)
