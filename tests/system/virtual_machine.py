"""A virtual machine: boots a Debian root with qemu, and talks with it on its serial console.

It runs without KVM, so a boot takes 10 to 40 seconds; with more than one processor qemu 7.2 then lets Linux crash now
and then, where that patches its own code.  What a test waits for has an upper bound, and the error has the
last lines of the console.  A power cut is a SIGKILL of qemu: what the guest had not yet given to its disk is lost.
"""

from __future__ import annotations

import itertools
import os
import re
import selectors
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.system.debian_root import DebianRoot

#: A shell of root on the serial console, as soon as the file systems are there: all services would take a minute more.
_CONSOLE_UNIT = """[Unit]
Description=a shell for the test
DefaultDependencies=no
Requires=sysinit.target
After=sysinit.target
Conflicts=shutdown.target
Before=shutdown.target
AllowIsolate=yes
[Service]
Environment=HOME=/root TERM=dumb NO_COLOR=1 LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PS1= PS2=
ExecStart=/bin/sh -c 'stty -echo; dmesg -n 4; echo console-is-ready; exec /bin/sh -i'
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
KillSignal=SIGHUP
"""
#: For the kernel's command line: go up to that shell, and say little.
UP = ("quiet", "panic=-1", "systemd.show_status=0", "systemd.unit=test-console.service")
#: What a new system would do at its first boot; done before, or left out.
_FIRST_BOOT = """
systemd-machine-id-setup
touch /etc/.updated /var/.updated
cd /etc/systemd/system && ln -sf /dev/null systemd-binfmt.service && ln -sf /dev/null systemd-hwdb-update.service
"""
READY = "console-is-ready"
#: What no boot needs: patterns of paths.
UNNEEDED = (
    *(
        "boot/*",
        "src/*",
        "usr/include/*",
        "usr/lib/gcc/*",
        "usr/libexec/gcc/*",
        "usr/share/doc/*",
        "usr/share/locale/*",
    ),
    *("var/cache/*", "var/lib/apt/lists/*"),
)
_LAST = 40  # lines of the console in an error


def give_console(root: DebianRoot) -> None:
    """Let a root file system start a shell of root on its serial console if the kernel's command line has ``UP``."""
    (root.path / "etc/systemd/system/test-console.service").write_text(_CONSOLE_UNIT)
    root.must("sh", "-ec", _FIRST_BOOT)


def make_squashfs(root: DebianRoot, image: Path, without: Sequence[str] = UNNEEDED) -> Path:
    """Make a squashfs image of a root file system, and return its path.

    Args:
        root: what is in it.
        image: a path of a file, which is replaced.
        without: patterns of paths that are left out.
    """
    image.unlink(missing_ok=True)
    command = ["mksquashfs", root.path, image, "-quiet", "-no-progress", "-comp", "lz4", "-wildcards", "-no-xattrs"]
    subprocess.run([*command, "-e", *without], check=True, timeout=300)
    return image


def make_ext4(image: Path, megabytes: int, label: str, content: Path | None = None) -> Path:
    """Make an ext4 image, and return its path.

    Args:
        image: a path of a file, which is replaced.
        megabytes: its size in MiB.
        label: of the file system.
        content: a directory whose content is copied into it.
    """
    image.unlink(missing_ok=True)
    copied = ["-d", content] if content is not None else []
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-L", label, *copied, image, f"{megabytes}M"], check=True, timeout=300
    )
    return image


@dataclass(frozen=True)
class Disk:
    """A disk of the machine; the first one is ``/dev/vda``.

    Attributes:
        image: path of a raw image.
        forgetful: what the machine writes is gone when it is off.
    """

    image: Path
    forgetful: bool = False

    @property
    def drive(self) -> str:
        """What qemu takes after ``-drive``."""
        # A SIGKILL of qemu takes nothing from the host's cache: what the machine has written need not be on its disk.
        return f"file={self.image},format=raw,if=virtio,cache=unsafe{',snapshot=on' * self.forgetful}"


@dataclass
class VirtualMachine:
    """A machine that is on from ``with`` on, and off after it.

    Attributes:
        kernel, initrd: paths of the files.
        disks: its disks.
        words: the kernel's command line, beside what the console needs.
        memory: in MiB.
    """

    kernel: Path
    initrd: Path
    disks: Sequence[Disk]
    words: Iterable[str]
    memory: int = 1024
    _said: str = field(default="", init=False)
    _read: int = field(default=0, init=False)  # how much of it was looked at
    _process: subprocess.Popen[bytes] = field(init=False)
    _numbers: itertools.count[int] = field(default_factory=itertools.count, init=False)

    @classmethod
    def of(cls, root: DebianRoot, disks: Sequence[Disk], words: Iterable[str]) -> VirtualMachine:
        """Return a machine with the kernel and the initial file system that a root has in ``/boot``."""
        return cls(_only(root.path, "boot/vmlinuz-*"), _only(root.path, "boot/initrd.img-*"), disks, words)

    def __enter__(self) -> VirtualMachine:
        # The timer of an emulated machine may come late, which Linux takes for a broken one.
        words = ["console=ttyS0", "no_timer_check", *self.words]
        self._process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-no-reboot", "-nodefaults"),
                *("-m", str(self.memory), "-display", "none", "-serial", "stdio"),
                *("-kernel", self.kernel, "-initrd", self.initrd, "-append", " ".join(words)),
                *itertools.chain.from_iterable(("-drive", disk.drive) for disk in self.disks),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.power_cut()

    @property
    def said(self) -> str:
        """All that the console has said."""
        return self._said

    def expect(self, *patterns: str, timeout: float = 300) -> re.Match[str]:
        """Wait until the console says something, and return the first match; what follows it is for the next call.

        Args:
            patterns: regular expressions, of which one must match (in multi-line mode).
            timeout: in seconds.

        Raises:
            AssertionError: it did not; the last lines of the console are in it.
        """
        pattern = re.compile("|".join(f"(?:{each})" for each in patterns), re.M)
        until = time.monotonic() + timeout
        while (match := pattern.search(self._said, self._read)) is None:
            if not self._listen(until):
                raise AssertionError(f"{self._why(until)} instead of {pattern.pattern!r}; at last:\n{self._end()}")
        self._read = match.end()
        return match

    def wait_until_up(self, timeout: float = 600) -> None:
        """Wait for the shell of ``give_console``."""
        self.expect(READY, timeout=timeout)

    def send(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def run(self, command: str, timeout: float = 300) -> tuple[str, int]:
        """Run a command in the shell of the console; return what it said and its exit code.

        Args:
            command: one line of shell, of up to 4,000 characters.
            timeout: in seconds.
        """
        mark = f"{os.getpid()}-{next(self._numbers)}"
        # In two words each, so that an echo of the line is not taken for what it prints.
        self.send(f"echo 'begin' {mark}; ( {command} ) </dev/null 2>&1; echo 'end-'$? {mark}")
        self.expect(rf"begin {mark}\r?\n", timeout=timeout)
        start = self._read
        match = self.expect(rf"end-(\d+) {mark}\r?\n", timeout=timeout)
        return self._said[start : match.start()].replace("\r\n", "\n"), int(match[1])

    def must(self, command: str, timeout: float = 300) -> str:
        """Run a command as :meth:`run` does, and return what it said; fail the test if it fails."""
        said, code = self.run(command, timeout)
        assert code == 0, f"{command}: exit {code}: {said}"
        return said

    def power_cut(self) -> None:
        """Cut the power."""
        self._process.kill()
        self._process.wait()
        self._hear_the_rest()

    def wait_until_off(self, timeout: float = 300) -> str:
        """Wait until the machine has switched itself off (or restarts, which ends it too); return what it said."""
        start, until = self._read, time.monotonic() + timeout
        while self._listen(until):
            pass
        assert time.monotonic() < until, f"still on after {timeout:.0f} s; at last:\n{self._end()}"
        self._process.wait(timeout=30)
        self._hear_the_rest()
        return self._said[start:]

    def _listen(self, until: float) -> bool:
        """Take what the console says; return False at the end of the time, or if the machine is off."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, until - time.monotonic())):
                return False
        return self._take(self._process.stdout.read(65536))

    def _take(self, data: bytes | None) -> bool:
        if not data:
            return False
        self._said += data.decode("utf-8", "replace")
        return True

    def _hear_the_rest(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        if not stdout.closed:
            while self._take(stdout.read(65536)):
                pass
            stdin.close()
            stdout.close()

    def _why(self, until: float) -> str:
        return "the time is over" if time.monotonic() >= until else "the machine is off"

    def _end(self) -> str:
        return "\n".join(self._said.splitlines()[-_LAST:])


def _only(root: Path, pattern: str) -> Path:
    found = list(root.glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0]
