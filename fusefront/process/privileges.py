"""What the processes of a mount give up once it is there: a storage may be anybody's, and they need little.

Five things, each explained where it comes from: capabilities(7), PR_SET_NO_NEW_PRIVS and PR_SET_DUMPABLE (prctl(2)),
seccomp(2), landlock(7).  The rule kept here: what the kernel refuses is said in the log and never keeps a mount from
being made; and nothing is given up that is used.  What is used:

* DAC_OVERRIDE, DAC_READ_SEARCH: base and storage may belong to anybody;
* FOWNER: to read a base without leaving access times (O_NOATIME), where its mount cannot be cloned;
* SYS_RESOURCE: the blocks that a file system keeps for root (engine/free_space.py counts them);
* SYS_ADMIN: to read trusted attributes of a base (xattr(7)); the helper's, to unmount and to have names forgotten;
* SYS_PTRACE: the helper's, to see whether a process is writing (proc_info.py), and what the root of process 1 is.

All but the set that cannot be exceeded are properties of threads, which new threads and processes inherit.  Landlock
forbids a process to unmount, and its children too.  So the daemon has one thread that is not bound by it
(helper_process.py): it starts new helpers, and does their work where there can be none.
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

log = logging.getLogger(__name__)

# linux/capability.h
DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE = 1, 2, 3, 19, 21, 24
HELPERS = frozenset({DAC_READ_SEARCH, SYS_PTRACE, SYS_ADMIN})
SERVING = frozenset({DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SYS_ADMIN, SYS_RESOURCE})
_CAPABILITIES = 64  # more than there are
_CAPABILITY_VERSION = 0x20080522

# linux/prctl.h
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/landlock.h: rights that change something, and the version of the interface that each came with
_EXECUTE, _WRITE_FILE, _REMOVE_DIR, _REMOVE_FILE = 1 << 0, 1 << 1, 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _REFER, _TRUNCATE = 1 << 7, 1 << 8, 1 << 13, 1 << 14
_MAKE_OTHERS = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12  # devices, sockets, pipes, symlinks
_FILES = _EXECUTE | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_OTHERS | _REFER
_OWN = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER  # in a directory of ours
_TCP = 1 << 0 | 1 << 1  # to listen, to connect
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_LEAST_LANDLOCK = 2  # the first forbids every rename from one directory to another

# System calls that have no place in a file system's daemon: their numbers on x86-64, and on the architectures that
# share the newer list (asm-generic/unistd.h).  None: there is no such call.
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
_ARCHITECTURES = {  # the number of each, linux/audit.h; and which list of calls it has
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
    "riscv64": (0xC00000F3, 1),
    "loongarch64": (0xC0000102, 1),
}
_SECCOMP = (317, 277)
_X32 = 0x4000_0000  # set in the numbers of x32, a second list on x86-64
_SECCOMP_SET_MODE_FILTER = 1
_SPEC_ALLOW = 1 << 2  # the filter is no sandbox of foreign code, which kernels before 5.16 slow down
_RET_ALLOW, _RET_ERRNO = 0x7FFF_0000, 0x0005_0000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/filter.h: BPF_LD+W+ABS, BPF_JMP, BPF_RET
_NUMBER, _ARCHITECTURE = 0, 4  # places in struct seccomp_data

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def of_process() -> None:
    """Give up, for root's daemon, what no thread of it needs.  To be called while there is but one.

    Others keep what they have: to unmount they need fusermount3, a set-id program.
    """
    _tried("dumpable", _undumpable)
    if os.geteuid() == 0:
        _tried("capabilities", lambda: _keep(SERVING | HELPERS))
        _tried("no_new_privs", _no_new_privileges)
        _tried("seccomp", _filter)


def rules(directories: Iterable[str]) -> int | None:
    """Prepare what ``of_server`` puts into force.

    Args:
        directories: where files may be made, written and deleted.

    Returns:
        A descriptor, or None where the kernel has no Landlock.
    """
    try:
        return _ruleset(directories)
    except OSError as error:
        _lacking("Landlock", error)
        return None


def of_server(ruleset: int | None) -> None:
    """Give up what the thread that serves the mount does not need; and not to be undone.

    Args:
        ruleset: what ``rules`` has made; it is closed.
    """
    if os.geteuid() == 0:
        _tried("capabilities", lambda: _keep(SERVING))
    else:
        _tried("no_new_privs", _no_new_privileges)
        _tried("seccomp", _filter)
    if ruleset is not None:
        _tried("Landlock", lambda: _restrict(ruleset))
        os.close(ruleset)


def of_helper() -> None:
    """Give up what the helper process does not need; what the kernel refuses the daemon has said already."""
    for action in (_undumpable, *((lambda: _keep(HELPERS), _no_new_privileges, _filter) if os.geteuid() == 0 else ())):
        with contextlib.suppress(OSError):
            action()


def _tried(what: str, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        _lacking(what, error)


def _lacking(what: str, error: OSError) -> None:
    # older kernels and containers lack some: the others hold all the same
    level = logging.INFO if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP) else logging.WARNING
    log.log(level, "the daemon has more privileges than it needs, for the kernel refuses %s: %s", what, error)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(option, *words), "prctl")


def _syscall(number: int, *arguments: object) -> int:
    return _checked(int(_libc.syscall(ctypes.c_long(number), *arguments)), "syscall")


def _undumpable() -> None:
    """No core file, and nobody but root may look into the process: it holds bytes of everybody's files."""
    _prctl(_PR_SET_DUMPABLE, 0)


def _no_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _keep(wanted: frozenset[int]) -> None:
    """Keep of the capabilities that we have those that are wanted, and let no program give us others."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    words = (ctypes.c_uint32 * 6)()
    _checked(_libc.capget(header, words), "capget")
    for capability in range(_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), *[ctypes.c_ulong(0)] * 3) != 0:
            break  # EINVAL: there are no more; EPERM: this was done before
    _libc.prctl(_PR_CAP_AMBIENT, *[ctypes.c_ulong(word) for word in (_PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)])
    mask = sum(1 << capability for capability in wanted)
    for half in (0, 1):
        kept = words[3 * half + 1] & (mask >> 32 * half) & 0xFFFF_FFFF
        words[3 * half], words[3 * half + 1], words[3 * half + 2] = kept, kept, 0
    _checked(_libc.capset(header, words), "capset")


def program(machine: str) -> bytes | None:
    """The filter of system calls for an architecture, instructions of struct sock_filter; None where there is none.

    What it refuses answers EPERM; so do all calls by another architecture's list.
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


def _filter() -> None:
    code = program(HERE)
    if code is None:
        log.debug("there is no filter of system calls for %s", HERE)
        return
    buffer = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    number = _SECCOMP[_ARCHITECTURES[HERE.split("-", 1)[0]][1]]
    _syscall(number, ctypes.c_uint(_SECCOMP_SET_MODE_FILTER), ctypes.c_uint(_SPEC_ALLOW), described)


def _ruleset(directories: Iterable[str]) -> int:
    """Write nowhere but beneath some directories, run no program, reach nobody by TCP.

    Reading is not bound: base may be the whole system, and is confined by how it is read (engine/store/base_view.py).
    """
    create = syscall_number("landlock_create_ruleset")
    version = _syscall(create, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    if version < _LEAST_LANDLOCK:
        raise OSError(errno.EOPNOTSUPP, f"version {version} of it is too old")
    cutting = _TRUNCATE if version >= 3 else 0
    attributes = struct.pack("=QQ", _FILES | cutting, _TCP if version >= 4 else 0)
    size = ctypes.c_size_t(16 if version >= 4 else 8)
    ruleset = _syscall(create, ctypes.c_char_p(attributes), size, ctypes.c_uint32(0))
    try:
        for path in directories:
            _allow(ruleset, path, _OWN | cutting)
        _allow(ruleset, os.devnull, _WRITE_FILE | cutting)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def _restrict(ruleset: int) -> None:
    _no_new_privileges()
    _syscall(syscall_number("landlock_restrict_self"), ctypes.c_int(ruleset), ctypes.c_uint32(0))


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        beneath = struct.pack("=Qi", rights, fd)  # struct landlock_path_beneath_attr, packed
        number = syscall_number("landlock_add_rule")
        _syscall(number, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), beneath, ctypes.c_uint32(0))
    finally:
        os.close(fd)
