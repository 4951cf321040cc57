"""What the tests with live crashes share: a load of several processes on one mount, and its check after the crash."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minifo.engine.store.database import DB_NAME
from minifo.engine.store.database_file import open_database
from minifo.engine.store.invariants import check
from minifo.engine.store.memory_directory import memory_directory
from minifo.engine.store.object_paths import object_name
from tests.live_crash.load_history import (
    Event,
    Moment,
    difference,
    durable_floor,
    floor_of,
    moments,
    read_record,
    scan,
    state_of,
)  # fmt: skip
from tests.live_crash.load_worker import prepare_sql
from tests.mount.mount_sandbox import OverlayMount, await_end, daemon_of, is_mounted, minifo_program, run

WORKERS = 3
_PROGRAM = Path(__file__).with_name("load_worker.py")
_GONE = 10.0  # seconds
_NAMING = ("inode", "extent", "was_inode", "was_extent")  # the tables that name content objects
_BASE_SIZES = (0, 100, 5000, 300_000)  # of the files each worker finds in the base


def rounds(normal: int) -> int:
    """How many rounds to run: ``MINIFO_ROUNDS``, or *normal* without it."""
    return int(os.environ.get("MINIFO_ROUNDS", normal))


def seed() -> int:
    """What random choices start from: ``MINIFO_SEED``, or 1."""
    return int(os.environ.get("MINIFO_SEED", 1))


class Load:
    """Workers on a mount, and what they may find after a crash.

    Args:
        overlay: the overlay; its base is filled here.
        records: a directory outside the mount.
        sql: journal modes of the SQLite databases that are written beside.
    """

    def __init__(self, overlay: OverlayMount, records: Path, sql: tuple[str, ...] = ("DELETE", "WAL")) -> None:
        self.overlay = overlay
        self.records = records
        self.names = [f"w{number}" for number in range(WORKERS)]
        self.databases = [f"sql{mode}" for mode in sql]
        self.round = 0
        self.operations = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        for number, name in enumerate(self.names):
            (overlay.base / name / "d").mkdir(parents=True)
            for size in _BASE_SIZES:
                (overlay.base / name / f"b{size}").write_bytes(os.urandom(size))
            (overlay.base / name / "d" / "deep").write_bytes(b"%d" % number)
        for name, mode in zip(self.databases, sql, strict=True):
            (overlay.base / name).mkdir()
            prepare_sql(overlay.base / name, mode)
        self.states = {name: state_of(scan(overlay.base / name)) for name in self.names}
        self.rows = dict.fromkeys(self.databases, 0)

    def record(self, name: str) -> Path:
        """Where a worker records what it does in this round."""
        return self.records / f"{name}.{self.round}"

    def start(self) -> None:
        """Start the workers of one more round."""
        self.round += 1
        for name in self.names:
            process = self._run("files", name, f"{name}.{seed()}.{self.round}", stdin=subprocess.PIPE)
            assert process.stdin is not None
            with process.stdin as pipe:
                pickle.dump(self.states[name], pipe)
        for name in self.databases:
            self._run("sql", name, str(self.rows[name]))

    def _run(self, kind: str, name: str, argument: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        self.record(name).touch()  # a worker may be killed before it does anything
        words = [sys.executable, "-I", "-S", _PROGRAM, kind, self.overlay.mnt / name, self.record(name), argument]
        process = subprocess.Popen(words, stdin=stdin, stdout=subprocess.DEVNULL)
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """End the workers."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(30)
        self._processes.clear()

    # -- after the crash

    def check_killed(self, when: int) -> None:
        """Check that everything is there that was acknowledged before the daemon was killed.

        Args:
            when: CLOCK_MONOTONIC in ns, just before the kill.
        """
        for name in self.names:
            events = read_record(self.record(name))
            self.operations += floor_of(events, when)
            self._match(name, events, floor_of(events, when))
        for name in self.databases:
            self._check_rows(name, when)

    def check_cut(self, when: int, oldest: int) -> None:
        """Check that the tree is one that existed at some time, late enough.

        Args:
            when: CLOCK_MONOTONIC in ns, just before the cut: what an fsync has covered by then must be there.
            oldest: what was acknowledged before that time must be there in any case.
        """
        matches = []
        for name in self.names:
            events = read_record(self.record(name))
            self.operations += floor_of(events, when)
            floor = max(durable_floor(events, when), floor_of(events, oldest))
            matches.append(self._match(name, events, floor))
        for name in self.databases:
            self._check_rows(name, when)
        # one commit holds the work of all: there must be an instant at which each directory was as it is now
        instants = [moment.since for found in matches for moment in found]
        assert any(
            all(any(moment.since <= instant <= moment.until for moment in found) for found in matches)
            for instant in instants
        ), f"the directories are of different times: {[[m[1:3] for m in found] for found in matches]}"

    def _match(self, name: str, events: list[Event], floor: int) -> list[Moment]:
        found = scan(self.overlay.mnt / name)
        possible = list(moments(self.states[name], events, floor))
        matching = [moment for moment in possible if not difference(found, moment.state, moment.later)]
        if not matching:
            lines = [f"{name} is in none of {len(possible)} possible states (round {self.round}, {floor} operations)"]
            shown = (*possible[:3], possible[-1])
            lines += [f"  {moment.since}: {difference(found, moment.state, moment.later)}" for moment in shown]
            lines += [f"  {event}" for event in events[max(0, floor - 5) : floor + 8]]
            lines.append(f"  record kept as {self._keep(name)}")
            raise AssertionError("\n".join(lines))
        self.states[name] = state_of(found)
        return matching

    def _keep(self, name: str) -> str:
        kept = f"/tmp/minifo-live-{os.getpid()}-{name}.{self.round}"
        shutil.copy(self.record(name), kept)
        return kept

    def _check_rows(self, name: str, when: int) -> None:
        events = read_record(self.record(name))
        database = sqlite3.connect(self.overlay.mnt / name / "rows.db")
        try:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = database.execute("SELECT count(*), max(number) FROM row").fetchone()
        finally:
            database.close()
        least = self.rows[name] + floor_of(events, when)
        assert least <= rows[0] <= self.rows[name] + len(events), f"{name}: {rows[0]} rows, {least} acknowledged"
        assert rows[0] == 0 or rows[1] == rows[0] - 1
        self.rows[name] = rows[0]


def check_storage(storage: Path) -> None:
    """Check a storage at rest: no invariant is broken, and there is no object nobody names.  It may be mounted."""
    database = open_database(str(storage / DB_NAME), read_only=True)
    try:
        assert check(database) == []
        sql = " UNION ".join(f"SELECT object FROM {table} WHERE object > 0" for table in _NAMING)
        named = {object_name(number) for (number,) in database.rows(sql)}
        swept = {object_name(number) for (number,) in database.rows("SELECT object FROM garbage")}
    finally:
        database.close()
    there = {str(path.relative_to(storage)) for path in (storage / "content").glob("*/*")}
    assert named <= there, f"objects without a file: {sorted(named - there)}"
    assert there <= named, f"files nobody names: {sorted(there - named)}, of which garbage {sorted(swept & there)}"


def storage_uuid(storage: Path) -> str:
    """The identity of a storage, by which its redo log is named.  It may be mounted."""
    database = open_database(str(storage / DB_NAME), read_only=True)
    try:
        return str(database.value("SELECT value FROM overlay WHERE key = 'uuid'"))
    finally:
        database.close()


def kill(overlay: OverlayMount) -> int:
    """SIGKILL an overlay's daemon, and wait until it is gone.

    Returns:
        The time just before, CLOCK_MONOTONIC in ns.
    """
    when = time.monotonic_ns()
    os.kill(overlay.pid, signal.SIGKILL)
    await_end(overlay.pid)
    limit = time.monotonic() + _GONE
    while _threads(overlay.pid):
        if time.monotonic() > limit:
            run("umount", "-f", "-i", overlay.mnt, check=False)  # ends the connection: else everybody hangs for ever
            raise AssertionError("a thread of the killed daemon waits for its own mount")
        time.sleep(0.01)
    return when


def _threads(pid: int) -> int:
    """Threads of a process that live on without its first one, which shows as a zombie."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) - 1
    except FileNotFoundError:
        return 0


def unmount_dead(overlay: OverlayMount) -> None:
    """Take away a mount whose daemon is gone."""
    while is_mounted(overlay.mnt):
        run("umount", "-l", "-i", overlay.mnt)


def mount_and_kill(overlay: OverlayMount, delay: float) -> bool:
    """Mount, and kill the daemon some time after it has taken the lock.

    Args:
        overlay: not mounted.
        delay: seconds.

    Returns:
        True if the mount was there already.
    """
    words = [word for option in overlay.options for word in ("-o", option)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [minifo_program(), "mount", "-f", *words, "--base", overlay.base, "--sto", overlay.sto, overlay.mnt],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
        )  # fmt: skip
        limit = time.monotonic() + 20
        while daemon_of(overlay.sto) != process.pid:
            if process.poll() is not None or time.monotonic() > limit:
                process.kill()
                said.seek(0)
                raise AssertionError(f"the daemon does not take the lock: {process.wait(30)} {said.read()}")
            time.sleep(0.0005)
    time.sleep(delay)
    mounted = is_mounted(overlay.mnt)
    process.kill()
    process.wait(30)
    unmount_dead(overlay)
    return mounted


def forget_memory(uuid: str) -> None:
    """Delete the redo log of a storage, which a power cut would have taken."""
    directory = memory_directory()
    assert directory is not None
    (log,) = Path(directory).glob(f"{uuid}-*.redo")
    log.unlink()
