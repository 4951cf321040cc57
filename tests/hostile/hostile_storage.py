"""A storage that somebody else has filled, and what must not happen whatever is in it.

Beside base and storage lies ``outside``: files nobody has asked for.  A test spoils the storage as an attacker would,
sends root through every door with the real commands, and ``assert_unharmed`` says whether anything outside was changed,
or its bytes got somewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import apsw

from minifo.engine import ROOT, Ino, Overlay, Process, RenameFlags
from minifo.engine.store.object_paths import object_name
from minifo.engine.store.syscalls import data_ranges
from tests.mount.mount_sandbox import is_mounted
from tests.shared.file_trees import change_rows

SECRET = b"nobody is to see this: 5ecae2b1\n"
STEP = 60.0  # seconds one command may take on a busy machine
LARGE = 300_000  # bytes: a file of this size is an object
_READ_MOST = 1 << 20  # bytes of one file
_PROGRAMS = Path(sys.executable).parent
_ROOT = Process(0, 0, 0)


class HostileStorage:
    """A base, a storage, and what is outside.

    Attributes:
        base, storage: the overlay's directories.
        outside: files that nothing may touch.
        out: where a rescue or an export goes; not there yet.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.base, self.storage, self.outside = top / "base", top / "sto", top / "outside"
        self.out, self.mountpoint = top / "out", top / "mnt"
        for directory in (self.base, self.storage, self.outside, self.mountpoint):
            directory.mkdir(mode=0o755)
        (self.base / "kept").write_bytes(b"kept\n")
        (self.base / "changed").write_bytes(b"b" * LARGE)
        (self.base / "dir").mkdir()
        (self.base / "dir" / "moved").write_bytes(b"moved\n")
        self.inos = _fill(self.base, self.storage)
        (self.outside / "secret").write_bytes(SECRET)
        (self.outside / "empty").mkdir()
        (self.outside / "copy" / "0").mkdir(parents=True)
        for number in range(8):
            (self.outside / "copy" / "0" / f"{number:x}").write_bytes(SECRET)
        self._before = self._look()

    # -- what an attacker does

    def sql(self, *statements: str) -> None:
        """Change rows of the database; ``{path}`` stands for the inode number of a path."""
        change_rows(str(self.storage / "minifo.db"), self.inos, statements)

    @property
    def object(self) -> Path:
        """The file of the content object of ``/large``."""
        con = apsw.Connection(str(self.storage / "minifo.db"))
        try:
            number = con.execute("SELECT object FROM inode WHERE ino = ?", (self.inos["/large"],)).fetchone()[0]
        finally:
            con.close()
        return self.storage / object_name(number)

    # -- what root does

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run a command of ours; it ends in time, and without a traceback."""
        program, *arguments = map(str, words)
        done = subprocess.run(
            [_PROGRAMS / program, *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=STEP, check=False
        )
        assert b"Traceback" not in done.stderr + done.stdout, done.stderr.decode(errors="replace")
        return done

    def mount(self, *options: str) -> int:
        """Mount, read what there is, and unmount; the exit code of the mount."""
        words = ",".join((f"base={self.base}", f"sto={self.storage}", *options))
        code = self.run("minifo", "mount", "-o", words, self.mountpoint).returncode
        if code == 0:
            self.seen = {}
            for directory, _, names in os.walk(self.mountpoint):
                for path in (Path(directory, name) for name in names):
                    with contextlib.suppress(OSError):  # of a file whose rows make no sense
                        st = path.lstat()
                        if stat.S_ISREG(st.st_mode):
                            self.seen[str(path.relative_to(self.mountpoint))] = _read(path, st.st_size)
            self.clear()
        return code

    def is_mounted(self) -> bool:
        """Whether anything is mounted, even if its root cannot be looked at."""
        return is_mounted(self.mountpoint)

    def clear(self) -> None:
        """Unmount what is mounted."""
        if self.is_mounted():
            self.run("minifo", "umount", self.mountpoint)

    def go_through(self, door: str) -> int:
        """Send root through a door, by its name in ``DOORS``; the exit code."""
        if door == "mount":
            return self.mount()
        if door == "mount-ro":
            return self.mount("ro")
        words = [word.format(hostile=self) for word in DOORS[door].split()]
        return self.run(*words).returncode

    # -- what came of it

    def _look(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in [self.outside, *sorted(self.outside.rglob("*"))]:
            st = path.lstat()
            seen = (st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
            found[str(path)] = (seen, path.read_bytes() if path.is_file() else b"")
        return found

    def know_outside(self) -> None:
        """Take what is outside now for what must stay."""
        self._before = self._look()

    def assert_unharmed(self) -> None:
        """Nothing outside was changed, and nothing shows what is in there."""
        after = self._look()
        assert after == self._before, {key for key in after | self._before if after.get(key) != self._before.get(key)}
        assert {path.name for path in self.top.iterdir()} <= {
            "base",
            "sto",
            "outside",
            "out",
            "out.minifo-export",
            "mnt",
        }
        assert not any(SECRET in data for data in getattr(self, "seen", {}).values())
        # find(1), because trees may be deeper than Python's own ways to walk them
        there = [path for path in (self.base, self.storage, self.out) if path.exists()]
        search = ["find", *there, "-type", "f", "-links", "1", "-exec", "grep", "-lF", SECRET.strip(), "{}", "+"]
        found = subprocess.run(search, capture_output=True, check=False)
        assert not found.stdout, found.stdout
        assert not found.stderr, found.stderr


#: Every way of root into a storage, but for those that mount.
DOORS = {
    "mount": "",
    "mount-ro": "",
    "check": "minifo-fsck -n -f --verify-data {hostile.storage}",
    "repair": "minifo-fsck -y --verify-data {hostile.storage}",
    "rescue": "minifo-fsck --rescue {hostile.out} --base {hostile.base} {hostile.storage}",
    "plan": "minifo merge {hostile.storage} --base {hostile.base}",
    "merge": "minifo merge {hostile.storage} --base {hostile.base} --apply",
    "export": "minifo meta export --lossy {hostile.storage} --base {hostile.base} {hostile.out}",
    "restore": "minifo meta restore --discard {hostile.storage}",
    "upgrade": "minifo upgrade {hostile.storage}",
    "clone": "minifo clone {hostile.storage} {hostile.out}",
}


def _read(path: Path, size: int) -> bytes:
    """The data of a file without its holes, up to a bound or an error: it may say that it has 8 EiB."""
    data = b""
    with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
        for start, end in data_ranges(file.fileno(), 0, size):
            data += os.pread(file.fileno(), min(end - start, _READ_MOST - len(data)), start)
            if len(data) >= _READ_MOST:
                break
    return data


def _fill(base: Path, storage: Path) -> dict[str, int]:
    overlay = Overlay.open(str(base), str(storage))
    try:
        inos = {}
        for name in ("small", "large", "second"):
            inos[f"/{name}"] = overlay.mknod(ROOT, name.encode(), 0o100644, 0, _ROOT).ino
        overlay.write(inos["/small"], 0, b"small\n")
        overlay.write(inos["/large"], 0, b"l" * LARGE)
        overlay.write(inos["/second"], 0, b"s" * LARGE)
        inos["/sub"] = overlay.mkdir(ROOT, b"sub", 0o755, _ROOT).ino
        inos["/sub/file"] = overlay.mknod(Ino(inos["/sub"]), b"file", 0o100644, 0, _ROOT).ino
        inos["/link"] = overlay.symlink(ROOT, b"link", b"small", _ROOT).ino
        changed = overlay.lookup(ROOT, b"changed")
        directory = overlay.lookup(ROOT, b"dir")
        assert changed is not None
        assert directory is not None
        inos["/changed"], inos["/dir"] = changed.ino, directory.ino
        overlay.write(Ino(changed.ino), 0, b"c")
        overlay.rename(Ino(directory.ino), b"moved", ROOT, b"renamed", RenameFlags(0))
    finally:
        overlay.close()
    return inos
