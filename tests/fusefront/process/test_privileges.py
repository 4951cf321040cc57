"""What a process can and cannot do when it has given up its privileges: asked of the kernel, in a child."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minifo.engine.store.syscall_numbers import HERE
from minifo.fusefront.process import privileges
from minifo.fusefront.process.privileges import FORBIDDEN, seccomp_program
from tests.mount.mount_sandbox import USER, attempt, in_child

_GENERIC = Path("/usr/include/asm-generic/unistd.h")
_ALLOW, _REFUSE = 0x7FFF_0000, 0x0005_0000 | errno.EPERM


def bound(places: list[Path], look: Callable[[], Any], uid: int = 0) -> Any:
    """What *look* finds in a process that serves a mount and may write to some directories."""

    def act() -> Any:
        ruleset = privileges.landlock_ruleset([str(place) for place in places])
        privileges.drop_in_process()
        privileges.drop_in_server_thread(ruleset)
        return look()

    return in_child(act, uid=uid)


def call(name: str, *arguments: Any) -> str:
    """The errno of a function of the C library, by its name."""
    libc = ctypes.CDLL(None, use_errno=True)
    return "" if getattr(libc, name)(*arguments) >= 0 else errno.errorcode[ctypes.get_errno()]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A directory that may be written, and one that may not; each with a file."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(0o755)
        if directory.parent == Path("/"):
            break
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir(mode=0o777)
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "file").write_text(name)
        (tmp_path / name / "file").chmod(0o666)
    return tmp_path / "ours", tmp_path / "theirs"


@pytest.mark.parametrize("uid", [0, USER])
def test_files(places: tuple[Path, Path], uid: int) -> None:
    """Files are made, changed and deleted where they may be, and nowhere else; everything may be read."""
    ours, theirs = places

    def look() -> list[Any]:
        found: list[Any] = []
        for place in places:
            (place / "file").read_text()
            found.append(
                [
                    attempt((place / "file").write_text, "changed"),
                    attempt(os.truncate, place / "file", 3),
                    attempt(os.rename, place / "file", place / "renamed"),
                    attempt(os.mkdir, place / "made"),
                    attempt(os.unlink, place / "renamed" if place == ours else place / "file"),
                ]
            )
        with open(os.devnull, "w") as null:
            null.write("nothing")
        return found

    good, bad = bound([ours], look, uid)
    assert good == [7, None, None, None, None]
    assert set(bad) == {"EACCES"}
    assert (theirs / "file").read_text() == "theirs"
    assert os.listdir(ours) == ["made"]


def test_calls(places: tuple[Path, Path]) -> None:
    """No programs, no mounts, no looks into other processes, no TCP; not even for root."""

    def look() -> dict[str, Any]:
        nothing = ctypes.c_void_p(None)
        with socket.socket() as tcp:
            reached = attempt(tcp.connect, ("127.0.0.1", 9))
        return {
            "execve": call("execv", b"/bin/true", nothing),
            "ptrace": call("ptrace", 16, os.getppid(), nothing, nothing),
            "mount": call("mount", b"none", os.fsencode(places[0]), b"tmpfs", 0, nothing),
            "umount": call("umount2", b"/proc", 2),
            "unshare": call("unshare", 0x20000),
            "chroot": attempt(os.chroot, "/"),
            "setuid": attempt(os.setuid, USER),
            "memory": attempt(os.open, f"/proc/{os.getppid()}/mem", os.O_RDONLY),
            "tcp": reached,
            "chown": attempt(os.chown, places[0] / "file", USER, USER),
        }

    found = bound([places[0]], look)
    refused = {"EPERM", "EACCES"}
    assert {what: errno for what, errno in found.items() if errno not in refused} == {}


def test_what_stays(places: tuple[Path, Path]) -> None:
    """Files of others are read and written whatever their modes, and read without a trace."""
    ours, theirs = places
    for place in places:
        os.chown(place / "file", USER, USER)
        (place / "file").chmod(0)
    os.setxattr(theirs / "file", "trusted.minifo", b"seen")

    def look() -> list[Any]:
        fd = os.open(theirs / "file", os.O_RDONLY | os.O_NOATIME)
        return [os.read(fd, 10), os.getxattr(fd, "trusted.minifo"), attempt((ours / "file").write_text, "ours")]

    assert bound([ours], look) == [b"theirs", b"seen", 4]


def test_helper() -> None:
    """The helper may unmount and see into processes, but not mount, write to files of others or run programs."""
    target = Path(f"/run/minifo-test-{os.getpid()}")
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
    try:

        def look() -> list[Any]:
            privileges.drop_in_helper()
            nothing = ctypes.c_void_p(None)
            return [
                call("umount2", os.fsencode(target), 2),
                attempt(os.listdir, f"/proc/{os.getppid()}/fdinfo") != [],
                call("mount", b"none", os.fsencode(target), b"tmpfs", 0, nothing),
                call("execv", b"/bin/true", nothing),
                attempt(os.setuid, USER),
            ]

        assert in_child(look) == ["", True, "EPERM", "EPERM", "EPERM"]
        assert not os.path.ismount(target)
    finally:
        subprocess.run(["umount", "-q", target], check=False)
        target.rmdir()


def test_a_kernel_without(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kernel has none of this the process goes on, and says so."""
    monkeypatch.setattr(privileges, "syscall_number", lambda name: 100_000)
    assert privileges.landlock_ruleset([str(places[0])]) is None
    monkeypatch.setattr(privileges, "_SECCOMP", (100_000, 100_000))
    assert bound([places[0]], lambda: attempt((places[1] / "file").write_text, "written")) == 7


# -- the filter


def outcome_of(code: bytes, architecture: int, number: int) -> int:
    """What a filter says of a call: the kernel's rules (linux/filter.h), as far as they are used."""
    steps = list(struct.iter_unpack("=HBBI", code))
    place = held = 0
    while True:
        kind, yes, no, value = steps[place]
        place += 1
        if kind == 0x20:
            held = {0: number, 4: architecture}[value]
        elif kind == 0x06:
            return int(value)
        else:
            met = held == value if kind == 0x15 else held >= value
            place += yes if met else no


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1), ("riscv64", 1), ("loongarch64", 1)])
def test_filter(machine: str, column: int) -> None:
    """Just the calls of the list are refused, and every call by another list."""
    code = seccomp_program(f"{machine}-linux-gnu")
    assert code is not None
    own = privileges._ARCHITECTURES[machine][0]
    numbers = {row[column] for row in FORBIDDEN.values()} - {None}
    refused = {number for number in range(1000) if outcome_of(code, own, number) != _ALLOW}
    assert refused == numbers
    assert {outcome_of(code, own, number) for number in refused} == {_REFUSE}
    assert outcome_of(code, 0x40000003, 20) == _REFUSE  # i386
    assert outcome_of(code, own, 0x4000_0000) == (_REFUSE if column == 0 else _ALLOW)
    assert seccomp_program("arm-linux-gnueabihf") is None
    assert seccomp_program("x86_64-linux-gnux32") is None


def test_numbers_of_this_machine(tmp_path: Path) -> None:
    """They are those of the kernel's headers."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "a C compiler is needed, as for the extension"
    machine = HERE.split("-", 1)[0]
    if machine not in privileges._ARCHITECTURES:
        pytest.skip(f"there is no filter for {machine}")
    column = privileges._ARCHITECTURES[machine][1]
    names = {name: row[column] for name, row in FORBIDDEN.items() if row[column] is not None}
    lines = "".join(f'printf("%d\\n", (int)SYS_{name});' for name in (*names, "seccomp"))
    source = f"#include <stdio.h>\n#include <sys/syscall.h>\nint main(void) {{ {lines} return 0; }}\n"
    program = tmp_path / "numbers"
    subprocess.run([compiler, "-x", "c", "-o", program, "-"], input=source, text=True, check=True)
    found = [int(line) for line in subprocess.run([program], capture_output=True, check=True).stdout.split()]
    assert found == [*names.values(), privileges._SECCOMP[column]]


def test_numbers_of_others() -> None:
    """The newer list is that of asm-generic."""
    text = _GENERIC.read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)\b", text)}
    own = {name: row[1] for name, row in FORBIDDEN.items() if row[1] is not None}
    # a header may be older than a call
    assert {name: number for name, number in own.items() if known.get(name, number) != number} == {}
    assert len(own.keys() & known.keys()) > 35
    assert known["seccomp"] == privileges._SECCOMP[1]
