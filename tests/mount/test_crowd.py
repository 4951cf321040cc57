"""Above a number of names all that nobody uses are forgotten, and found again when somebody looks for them."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from pathlib import Path

from mount.support import Lab, is_mounted, minifo, minifo_program

_NAMES = 3000
_LIMIT = 2900  # so that few are left to be found when it is reached
_LINE = re.compile(r"of (\d+) names (\d+) are left")


def _list(top: Path) -> list[tuple[str, int, int, int]]:
    """Path, inode number, type and size of everything."""
    found = []
    for where, directories, files in os.walk(top):
        for name in (*directories, *files):
            st = os.lstat(os.path.join(where, name))
            found.append((os.path.join(where, name), st.st_ino, stat.S_IFMT(st.st_mode), st.st_size))
    return sorted(found)


def test_many_names_are_forgotten(lab: Lab) -> None:
    """After a walk of many names few are known, open files go on, and everything is where and what it was."""
    overlay = lab.overlay()
    for number in range(_NAMES):
        (overlay.base / f"d{number % 10}").mkdir(exist_ok=True)
        (overlay.base / f"d{number % 10}" / f"f{number}").write_bytes(b"x" * (number % 7))
    words = [
        "mount",
        "-f",
        "-o",
        f"debug,max_names={_LIMIT}",
        "--base",
        overlay.base,
        "--sto",
        overlay.sto,
        overlay.mnt,
    ]
    log = lab.directory() / "log"
    with open(log, "wb") as stderr:
        daemon = subprocess.Popen([minifo_program(), *words], stderr=stderr)
    overlay.pid = daemon.pid
    deadline = time.monotonic() + 60
    while not is_mounted(overlay.mnt):
        assert daemon.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (overlay.mnt / "made").write_bytes(b"made")
    with open(overlay.mnt / "d3" / "f13", "r+b") as used, open(overlay.mnt / "deleted", "w+b") as deleted:
        deleted.write(b"still here")
        os.unlink(overlay.mnt / "deleted")
        before = _list(overlay.mnt)
        while (told := _LINE.search(log.read_text())) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        used.seek(0, os.SEEK_END)
        used.write(b"end")
        used.flush()
        deleted.seek(0)
        assert deleted.read() == b"still here"
    known, left = int(told[1]), int(told[2])
    assert known >= _LIMIT
    assert left < _LIMIT // 3
    after = _list(overlay.mnt)
    grown = str(overlay.mnt / "d3" / "f13")
    assert [entry for entry in after if entry[0] != grown] == [entry for entry in before if entry[0] != grown]
    assert (overlay.mnt / "made").read_bytes() == b"made"
    assert Path(grown).read_bytes() == b"x" * (13 % 7) + b"end"
    minifo("umount", overlay.mnt)
    assert daemon.wait(30) == 0
    assert overlay.violations() == []
