"""A worker of the load: does random operations in one directory, and records each one as soon as it is acknowledged.

Run as a program of its own, with the directory, the record's file and a seed; the state of the directory comes pickled
through stdin.  It ends at the first error (its mount is dead then), or when it is told to.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.live_crash.load_history import Op, State, steps, text

_MOST_NAMES = 40
_SIZES = (0, 1, 700, 4096, 5000, 20_000, 70_000, 70_000)
_LARGE = 300_000
_GHOSTS = 3
_PAUSE = 0.004  # seconds, at most, between two operations: the daemon shall not be the only one to run

_WEIGHTS = {
    "create": 20, "replace": 22, "append": 10, "overwrite": 8, "truncate": 4, "unlink": 12, "mkdir": 6, "rmdir": 4,
    "rename": 12, "link": 6, "symlink": 2, "ghost": 5, "fsync": 4, "fsyncdir": 2,
}  # fmt: skip


class Worker:
    """Works in one directory.

    Args:
        root: the directory.
        state: what is in it.
        seed: of its choices.
    """

    def __init__(self, root: str, state: State, seed: str) -> None:
        self.root = root
        self.state = state
        self.seed = seed
        self.random = random.Random(seed)
        self.count = 0
        self.ghosts: list[int] = []

    # -- choosing

    def choose(self) -> Op:
        """An operation that is possible now."""
        weights = dict(_WEIGHTS)
        if len(self.state.names) > _MOST_NAMES:
            weights |= {"unlink": 80, "rmdir": 40}
        while True:
            kind = self.random.choices(list(weights), list(weights.values()))[0]
            op = self._make(kind)
            if op is not None:
                return op

    def _fresh(self) -> str:
        self.count += 1
        directory = self.random.choice(["", *self.state.directories()])
        return os.path.join(directory, f"n{self.random.randrange(100)}-{self.count}")

    def _size(self) -> int:
        return _LARGE if self.random.random() < 0.03 else self.random.choice(_SIZES)

    def _make(self, kind: str) -> Op | None:
        pick, state = self.random.choice, self.state
        files, directories = state.files(), state.directories()
        self.count += 1
        tag = f"{self.seed}.{self.count}"
        how = pick(["plain", "plain", "open", "fsync"])
        if kind in ("create", "ghost"):
            return [kind, self._fresh(), tag, self._size(), how]
        if kind == "mkdir":
            return [kind, self._fresh()]
        if kind == "symlink":
            return [kind, self._fresh(), tag]
        if kind == "fsyncdir":
            return [kind, pick(["", *directories])]
        if kind == "rename":
            old = pick([*files, *directories, *directories, *directories] or [""])
            new = self._fresh()
            return [kind, old, new] if old and not new.startswith(old + "/") else None
        if kind == "rmdir":
            empty = [path for path in directories if not any(name.startswith(path + "/") for name in state.names)]
            return [kind, pick(empty)] if empty else None
        if not files:
            return None
        path = pick(files)
        if kind == "replace":
            return [kind, path, tag, self._size(), how]
        if kind == "append":
            return [kind, path, 0, tag, self._size(), how]
        if kind == "overwrite":
            size = len(state.content(path))
            return [kind, path, self.random.randrange(size), tag, self.random.randrange(1, 9000), how] if size else None
        if kind == "truncate":
            return [kind, path, self.random.randrange(80_000)]
        return [kind, path, self._fresh()] if kind == "link" else [kind, path]

    # -- doing

    def do(self, op: Op) -> None:
        """Do an operation; when this returns it is acknowledged."""
        kind, path = str(op[0]), os.path.join(self.root, str(op[1])).rstrip("/")
        if kind in ("create", "ghost"):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            self._write(path, flags, 0, text(str(op[2]), int(op[3])), str(op[4]), ghost=kind == "ghost")
        elif kind == "replace":
            temporary = path + ".tmp"
            fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            self._fill(fd, 0, text(str(op[2]), int(op[3])))
            if op[4] == "fsync":
                os.fsync(fd)
            if op[4] != "open":
                os.close(fd)
            os.rename(temporary, path)
            if op[4] == "open":
                os.close(fd)
        elif kind in ("append", "overwrite"):
            at = len(self.state.content(str(op[1]))) if kind == "append" else int(op[2])
            self._write(path, os.O_WRONLY, at, text(str(op[3]), int(op[4])), str(op[5]))
        elif kind == "truncate":
            os.truncate(path, int(op[2]))
        elif kind in ("fsync", "fsyncdir"):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        elif kind in ("rename", "link"):
            {"rename": os.rename, "link": os.link}[kind](path, os.path.join(self.root, str(op[2])))
        elif kind == "symlink":
            os.symlink(str(op[2]), path)
        else:
            call: dict[str, Callable[[str], None]] = {"mkdir": os.mkdir, "rmdir": os.rmdir, "unlink": os.unlink}
            call[kind](path)

    def _write(self, path: str, flags: int, at: int, data: bytes, how: str, *, ghost: bool = False) -> None:
        fd = os.open(path, flags, 0o644)
        self._fill(fd, at, data)
        if how == "fsync":
            os.fsync(fd)
        if ghost:
            os.unlink(path)
            self.ghosts.append(fd)
            if len(self.ghosts) > _GHOSTS:
                os.close(self.ghosts.pop(0))
        else:
            os.close(fd)

    @staticmethod
    def _fill(fd: int, at: int, data: bytes) -> None:
        while data:
            done = os.pwrite(fd, data, at)
            data, at = data[done:], at + done


def work(root: str, record: int, seed: str, state: State) -> None:
    """Do operations until something fails."""
    worker = Worker(root, state, seed)
    while True:
        op = worker.choose()
        os.write(record, b"b %d %s\n" % (time.monotonic_ns(), json.dumps(op).encode()))
        try:
            worker.do(op)
        except OSError as error:
            os.write(record, b"e %d %d\n" % (time.monotonic_ns(), error.errno or 0))
            return
        os.write(record, b"a %d\n" % time.monotonic_ns())
        worker.state = steps(worker.state, op)[-1]
        time.sleep(worker.random.random() * _PAUSE)


def work_sql(root: str, record: int, first: int) -> None:
    """Insert one row after another into an SQLite database, each in a transaction of its own."""
    try:
        database = sqlite3.connect(os.path.join(root, "rows.db"), isolation_level=None)
        # FULL does not sync the directory once the journal is deleted
        database.execute("PRAGMA synchronous=EXTRA")
    except sqlite3.Error:
        return  # the daemon was killed already
    number = first
    while True:
        os.write(record, b'b %d ["row", %d]\n' % (time.monotonic_ns(), number))
        try:
            database.execute("INSERT INTO row VALUES (?, ?)", (number, text(str(number), 900)))
        except sqlite3.Error:
            os.write(record, b"e %d 0\n" % time.monotonic_ns())
            return
        os.write(record, b"a %d\n" % time.monotonic_ns())
        number += 1
        time.sleep(_PAUSE)


def prepare_sql(root: Path, mode: str) -> None:
    """Make the database, in a directory of the base."""
    database = sqlite3.connect(root / "rows.db", isolation_level=None)
    database.execute(f"PRAGMA journal_mode={mode}").fetchall()
    database.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, content BLOB)")
    database.close()


if __name__ == "__main__":
    kind, directory, record_path, argument = sys.argv[1:]
    descriptor = os.open(record_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if kind == "sql":
        work_sql(directory, descriptor, int(argument))
    else:
        work(directory, descriptor, argument, pickle.load(sys.stdin.buffer))
