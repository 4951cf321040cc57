"""Drops the privileges that the processes of a mount do not need, once the mount is there.

The storage may come from any user, so a defect that its content triggers must do little harm.  Five mechanisms of the
kernel are used: capabilities(7), PR_SET_NO_NEW_PRIVS and PR_SET_DUMPABLE (prctl(2)), seccomp(2), landlock(7).  The
rules kept here: a mechanism that the kernel refuses is logged and does not prevent the mount; and the processes keep
what they use.  They use these capabilities:

* DAC_OVERRIDE, DAC_READ_SEARCH: base and storage may belong to any user;
* FOWNER: to read a base without changing access times (O_NOATIME), where its mount cannot be cloned;
* SYS_RESOURCE: to use the blocks that a file system reserves for root (engine/free_space.py counts them);
* SYS_ADMIN: in the daemon to read trusted attributes of a base (xattr(7)); in the helper process to unmount, and to
  make the kernel forget names;
* SYS_PTRACE: in the helper process, to see whether a process is writing (proc_info.py), and which directory is the root
  of process 1.

Except for the dumpable flag these are properties of a thread, and new threads and child processes inherit them.
Landlock forbids unmounting, to child processes as well.  So the daemon has one thread outside of Landlock
(helper_process.py): it starts new helper processes, and does their work if they cannot be started.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import struct
from collections.abc import Callable, Iterable

from ...engine.store.syscall_numbers import HERE, syscall_number
from ...engine.store.syscalls import checked

log = logging.getLogger(__name__)

# linux/capability.h
DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE = 1, 2, 3, 19, 21, 24
HELPER_CAPABILITIES = frozenset({DAC_READ_SEARCH, SYS_PTRACE, SYS_ADMIN})
SERVER_CAPABILITIES = frozenset({DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SYS_ADMIN, SYS_RESOURCE})
_NAMES = {
    DAC_OVERRIDE: "CAP_DAC_OVERRIDE",
    DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
    FOWNER: "CAP_FOWNER",
    SYS_PTRACE: "CAP_SYS_PTRACE",
    SYS_ADMIN: "CAP_SYS_ADMIN",
    SYS_RESOURCE: "CAP_SYS_RESOURCE",
}
_CAPABILITY_MAX = 64  # above the number of any capability
_CAPABILITY_VERSION = 0x20080522

# linux/prctl.h
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/landlock.h: the access rights that allow a change; _REFER came with version 2 of the interface, _TRUNCATE with 3
_EXECUTE, _WRITE_FILE, _REMOVE_DIR, _REMOVE_FILE = 1 << 0, 1 << 1, 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _REFER, _TRUNCATE = 1 << 7, 1 << 8, 1 << 13, 1 << 14
_MAKE_SPECIAL = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12  # devices, sockets, pipes, symlinks
_FORBIDDEN = _EXECUTE | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SPECIAL | _REFER
_ALLOWED_BENEATH = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER  # storage, redo log
_TCP = 1 << 0 | 1 << 1  # bind, connect
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_LANDLOCK_MIN = 2  # version 1 forbids every rename from one directory to another

# System calls that the daemon never makes: their numbers on x86-64, and on the architectures that share the newer list
# (asm-generic/unistd.h).  None: there is no such call.
# fmt: off
FORBIDDEN: dict[str, tuple[int, int | None]] = {
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
    "mount": (165, 40), "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432),
    "mount_setattr": (442, 442), "pivot_root": (155, 41), "chroot": (161, 51), "setns": (308, 268),
    "unshare": (272, 97), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "sethostname": (170, 161),
    "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, None),
    "ioperm": (173, None), "personality": (135, 92),
}
# fmt: on
_ARCHITECTURES = {  # AUDIT_ARCH_* of linux/audit.h, and the column of FORBIDDEN with its numbers
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
    "riscv64": (0xC00000F3, 1),
    "loongarch64": (0xC0000102, 1),
}
_SECCOMP = (317, 277)  # the number of seccomp(2), by column
_X32 = 0x4000_0000  # this bit is set in the call numbers of x32, the second ABI of x86-64
_SECCOMP_SET_MODE_FILTER = 1
_SPEC_ALLOW = 1 << 2  # no mitigation of speculation, which kernels before 5.16 add: no foreign code runs here
_RET_ALLOW, _RET_ERRNO = 0x7FFF_0000, 0x0005_0000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/filter.h: BPF_LD+W+ABS, BPF_JMP, BPF_RET
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def drop_in_process() -> None:
    """Drop the privileges that no thread of root's daemon needs.  Call it while the process has one thread.

    The process of another user only stops being dumpable here: its helper processes run fusermount3, a set-id program,
    to unmount.
    """
    _try_to("dumpable", _make_undumpable)
    if os.geteuid() == 0:
        _try_to("capabilities", lambda: _keep_capabilities(SERVER_CAPABILITIES | HELPER_CAPABILITIES))
        _try_to("no_new_privs", _no_new_privileges)
        _try_to("seccomp", _install_filter)


def landlock_ruleset(directories: Iterable[str]) -> int | None:
    """Create the Landlock ruleset that ``drop_in_server_thread`` enforces.

    Args:
        directories: the only directories in which files may be created, written and deleted.

    Returns:
        A descriptor of the ruleset, or None if the kernel has no Landlock; that is logged.
    """
    try:
        return _create_ruleset(directories)
    except OSError as error:
        _log_refusal("Landlock", error)
        return None


def drop_in_server_thread(ruleset: int | None) -> None:
    """Drop for ever the privileges that the calling thread, which serves the mount, does not need.

    Threads that it starts inherit the loss.

    Args:
        ruleset: descriptor from ``landlock_ruleset``, or None; it is closed here.
    """
    if os.geteuid() == 0:
        _try_to("capabilities", lambda: _keep_capabilities(SERVER_CAPABILITIES))
    else:
        _try_to("no_new_privs", _no_new_privileges)
        _try_to("seccomp", _install_filter)
    if ruleset is not None:
        _try_to("Landlock", lambda: _enforce_ruleset(ruleset))
        os.close(ruleset)


def drop_in_helper() -> None:
    """Drop the privileges that the helper process does not need."""
    actions: list[Callable[[], None]] = [_make_undumpable]
    if os.geteuid() == 0:
        actions += [lambda: _keep_capabilities(HELPER_CAPABILITIES), _no_new_privileges, _install_filter]
    for action in actions:
        with contextlib.suppress(OSError):  # the daemon logs a refusal of the same kernel
            action()


def _try_to(what: str, action: Callable[[], None]) -> None:
    """Call *action*; log it if the kernel refuses."""
    try:
        action()
    except OSError as error:
        _log_refusal(what, error)


def _log_refusal(what: str, error: OSError) -> None:
    # an older kernel or a container lacks some mechanisms; the others protect without them
    level = logging.INFO if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP) else logging.WARNING
    log.log(level, "the daemon keeps privileges that it does not need, for the kernel refuses %s: %s", what, error)


def _prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    checked(_libc.prctl(option, *words), "prctl")


def _syscall(number: int, *arguments: object) -> int:
    return checked(int(_libc.syscall(ctypes.c_long(number), *arguments)), "syscall")


def _make_undumpable() -> None:
    """Forbid core files, and let only root inspect the process: its memory holds bytes of every user's files."""
    _prctl(_PR_SET_DUMPABLE, 0)


def _no_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def missing_capabilities() -> list[str]:
    """Return the names of the capabilities that a mount of root uses and this process does not have."""
    words = _capabilities()[1]
    held = words[0] | words[3] << 32
    return [_NAMES[number] for number in sorted(SERVER_CAPABILITIES | HELPER_CAPABILITIES) if not held >> number & 1]


def _capabilities() -> tuple[bytes, ctypes.Array[ctypes.c_uint32]]:
    """Return the header and the words of capget(2): effective, permitted and inheritable, twice."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    words = (ctypes.c_uint32 * 6)()
    checked(_libc.capget(header, words), "capget")
    return header, words


def _keep_capabilities(wanted: frozenset[int]) -> None:
    """Drop every capability that is not in *wanted*, and empty the bounding set and the ambient set."""
    header, words = _capabilities()
    for capability in range(_CAPABILITY_MAX):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), *[ctypes.c_ulong(0)] * 3) != 0:
            break  # EINVAL: this kernel has no capability of that number; EPERM: SETPCAP was dropped by an earlier call
    _libc.prctl(_PR_CAP_AMBIENT, *[ctypes.c_ulong(word) for word in (_PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)])
    mask = sum(1 << capability for capability in wanted)
    for half in (0, 1):
        kept = words[3 * half + 1] & (mask >> 32 * half) & 0xFFFF_FFFF
        words[3 * half], words[3 * half + 1], words[3 * half + 2] = kept, kept, 0
    checked(_libc.capset(header, words), "capset")


def seccomp_program(machine: str) -> bytes | None:
    """Return the seccomp filter for an architecture, as an array of struct sock_filter.

    A call of ``FORBIDDEN`` fails with EPERM, and so does every call by the numbers of another architecture.

    Args:
        machine: the name of the architecture and ABI, as ``engine.store.syscall_numbers.HERE`` has it.

    Returns:
        The instructions, or None if there is no filter for that architecture.
    """
    name = machine.split("-", 1)[0]
    if name not in _ARCHITECTURES or machine.endswith("x32"):
        return None
    architecture, column = _ARCHITECTURES[name]
    numbers = [row[column] for row in FORBIDDEN.values()]
    checks = [(_EQUAL, number) for number in numbers if number is not None]
    if column == 0:
        checks.insert(0, (_AT_LEAST, _X32))
    # (code, jump if true, jump if false, value); the last two instructions are "allow" and "refuse"
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 0, len(checks) + 2, architecture), (_LOAD, 0, 0, _NUMBER)]
    steps += [(code, len(checks) - place, 0, value) for place, (code, value) in enumerate(checks)]
    steps += [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _install_filter() -> None:
    code = seccomp_program(HERE)
    if code is None:
        log.debug("no seccomp filter is known for %s", HERE)
        return
    buffer = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    number = _SECCOMP[_ARCHITECTURES[HERE.split("-", 1)[0]][1]]
    _syscall(number, ctypes.c_uint(_SECCOMP_SET_MODE_FILTER), ctypes.c_uint(_SPEC_ALLOW), described)


def landlock_version() -> int:
    """Return the version of the kernel's Landlock.

    Raises:
        OSError: the kernel has no Landlock, or too old a version of it.
    """
    create = syscall_number("landlock_create_ruleset")
    version = _syscall(create, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    if version < _LANDLOCK_MIN:
        raise OSError(errno.EOPNOTSUPP, f"its version {version} is too old")
    return version


def _create_ruleset(directories: Iterable[str]) -> int:
    """Return a Landlock ruleset that forbids writing outside of *directories*, running programs, and TCP.

    Reading stays allowed: the base may be the whole system, and engine/store/base_view.py confines how it is read.

    Raises:
        OSError: the kernel has no Landlock, or too old a version of it.
    """
    create, version = syscall_number("landlock_create_ruleset"), landlock_version()
    truncating = _TRUNCATE if version >= 3 else 0
    attributes = struct.pack("=QQ", _FORBIDDEN | truncating, _TCP if version >= 4 else 0)
    size = ctypes.c_size_t(16 if version >= 4 else 8)
    ruleset = _syscall(create, ctypes.c_char_p(attributes), size, ctypes.c_uint32(0))
    try:
        for path in directories:
            _allow_beneath(ruleset, path, _ALLOWED_BENEATH | truncating)
        _allow_beneath(ruleset, os.devnull, _WRITE_FILE | truncating)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def _enforce_ruleset(ruleset: int) -> None:
    _no_new_privileges()
    _syscall(syscall_number("landlock_restrict_self"), ctypes.c_int(ruleset), ctypes.c_uint32(0))


def _allow_beneath(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        beneath = struct.pack("=Qi", rights, fd)  # struct landlock_path_beneath_attr, packed
        number = syscall_number("landlock_add_rule")
        _syscall(number, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), beneath, ctypes.c_uint32(0))
    finally:
        os.close(fd)
