"""A Debian root whose own init runs: systemd or another, as process 1 of namespaces of its own, on this kernel.

It comes up in a few seconds, and shuts down as on a machine: units are stopped in their order, then what is left is
signalled, then file systems are unmounted.  It has the devices of FUSE and of a few loop devices.  A power cut is a
SIGKILL of everything in it at once: memory is lost, ``/run`` with the redo logs among it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType

from tests.shared.waiting import wait_until
from tests.system.debian_root import DebianRoot

_DEVICES = "null zero full random urandom tty autofs"
#: Mounts what an init expects of a container (systemd.io/CONTAINER_INTERFACE), then becomes it.  /dev/fuse is open to
#: users, as udev makes it (50-udev-default.rules), whatever it is outside.  Modules of the kernel are not its business,
#: which systemd sees from the capability that it lacks.
_ENTER = """
set -e
root=$1 console=$2 init=$3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mkdir -p "$root/sys/fs/cgroup"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in $DEVICES; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
mknod -m 666 "$root/dev/fuse" c 10 229
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
touch "$root/dev/console"
mount --bind "$console" "$root/dev/console"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
hostname minifo-test
mkdir -p "$root/outside"
cd "$root"
pivot_root . outside
umount -l /outside
exec env -i container=minifo-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    setpriv --bounding-set=-sys_module "$init" </dev/console >/dev/console 2>&1
"""

_SYSTEMD_IS_UP = """
until [ -S /run/systemd/private ]; do sleep 0.05; done
systemctl is-system-running --wait
"""


def _cgroups() -> Path:
    """Return where the second version of control groups is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(fields[1])
    raise AssertionError("there is no cgroup2 mount, which systemd needs")


class InitContainer:
    """A root file system that is up from ``boot`` to ``power_off`` or ``power_cut``.

    Args:
        root: the root file system.
        init: path of the program that becomes process 1.
        devices: names of devices in ``/dev`` that it sees beside the usual ones.

    Attributes:
        root: the root file system.
        console: all that was written to its console.
    """

    def __init__(self, root: DebianRoot, init: str = "/lib/systemd/systemd", devices: str = "") -> None:
        self.root = root
        self._init = init
        self._devices = f"{_DEVICES} {devices}"
        self._group = _cgroups() / f"minifo-test-{os.getpid()}-{id(self):x}"
        self.console = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._console = -1

    def __enter__(self) -> InitContainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.power_cut()

    def boot(self, until: str = _SYSTEMD_IS_UP, seconds: float = 60) -> str:
        """Start it, and return what *until* printed.

        Args:
            until: a command that returns when the system is up; it may fail.
            seconds: the longest wait for process 1.
        """
        assert self._process is None
        self._group.mkdir()
        master, slave = os.openpty()
        threading.Thread(target=self._listen, args=(master,), daemon=True).start()
        apart = "unshare --pid --fork --kill-child --mount --cgroup --uts --ipc --propagation private"
        arguments = shlex.join([_ENTER, "enter", str(self.root.path), os.ttyname(slave), self._init])
        words = f"echo $$ > {self._group}/cgroup.procs && exec {apart} sh -c {arguments}"
        self._process = subprocess.Popen(
            ["sh", "-c", words], env={**os.environ, "DEVICES": self._devices}, start_new_session=True
        )
        self._console = slave  # open as long as it runs: the other end fails when nobody has it open
        wait_until(self._find_init, "process 1 runs its init", seconds)
        return self.run(until).stdout

    def _listen(self, master: int) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the console open any more
            while data := os.read(master, 4096):
                self.console += data.decode(errors="replace")
        os.close(master)

    def _find_init(self) -> bool:
        """Find the process that is number 1 in there, as soon as it has entered the root."""
        assert self._process is not None
        assert self._process.poll() is None, f"it ended with {self._process.returncode}: {self.console}"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._pid = int(children[0]) if children else 0
        with contextlib.suppress(OSError):
            return bool(self._pid) and os.readlink(f"/proc/{self._pid}/root") == "/" and self._is_in()
        return False

    def _is_in(self) -> bool:
        name = Path(f"/proc/{self._pid}/cmdline").read_bytes().split(b"\\0")[0]
        return name.startswith(self._init.encode()) and self.run("true").returncode == 0

    def run(self, command: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root in it, and return what it said and its exit code."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            [
                *("nsenter", "--target", str(self._pid), "--pid", "--mount", "--uts", "--ipc", "--cgroup"),
                *("--root", "--wd", "env", "-i", path, "LC_ALL=C.UTF-8", "HOME=/root", "SYSTEMD_COLORS=0"),
                *("sh", "-c", command),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )

    def must(self, command: str, seconds: float = 120) -> str:
        """Run a command as ``run`` does, and return what it said; fail the test if it fails."""
        done = self.run(command, seconds)
        assert done.returncode == 0, f"{command}: exit {done.returncode}: {done.stdout}"
        return done.stdout

    def power_off(self, command: str = "systemctl poweroff", seconds: float = 120) -> None:
        """Shut it down as a user does; return when process 1 has ended."""
        assert self._process is not None
        self.run(command)
        self._process.wait(seconds)
        self._clean()

    def power_cut(self) -> None:
        """Kill all that runs in it."""
        if self._process is not None:
            (self._group / "cgroup.kill").write_text("1")
            self._process.wait(30)
            self._clean()

    def _clean(self) -> None:
        self._process = None
        os.close(self._console)
        groups = sorted(self._group.rglob("*/"), key=lambda path: -len(path.parts))
        for group in (*(path for path in groups if path.is_dir()), self._group):
            limit = time.monotonic() + 10
            while True:
                try:
                    group.rmdir()
                    break
                except OSError:
                    assert time.monotonic() < limit, f"{group} is still in use"
                    time.sleep(0.05)
