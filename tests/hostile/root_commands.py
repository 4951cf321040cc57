"""Every door of root's, one after the other, in a child process of its own; and what is outside, watched.

A fresh python for each command would take most of the time, so a child is forked with everything imported, and the
commands are called in it as their programs call them.  It tells the parent which door it goes through; the parent kills
it where one takes too long.  Everything lies on a tmpfs that keeps access times, so that what was only read is seen.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial

import click

from minifo.engine import ROOT, Ino, MinifoError, Overlay, Process, RenameFlags, SetAttr
from minifo.engine.queries.views import VIEWS
from minifo.engine.reset import reset
from minifo.engine.store.memory_directory import memory_directory
from minifo.engine.store.storage import Storage
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, data_ranges
from minifo.fusefront.control.patterns import Choice
from minifo.migrations.exchange.formats import Format
from minifo.tools import (  # noqa: F401
    _common,
    _complete,
    cat,
    cli,
    diagnose,
    digest,
    export,
    fsck_helper,
    import_,
    log,
    merge,
    meta,
    metrics,
    rebase,
    report,
    sync,
    upgrade,
    vacuum,
    watch,
    which,
)
from tests.hostile.storage_edits import LABELS, Edit, StoragePaths, apply
from tests.shared.digests import record_digests

SECRET = b"nobody is to see this: 5ecae2b1\n"
CPU = 10.0  # seconds of processor time one door may take
WALL = 60.0  # seconds by the clock, on a machine that others use
MEMORY = 400 << 20  # bytes that going through all doors may take beyond what the child began with
_SPACE = 3 << 30  # bytes of address space, for the machine's sake
_CALLER = Process()
_JOURNAL = 20  # entries
_OUTSIDE_MIRROR = 8  # objects of the copy outside


class Harm(AssertionError):
    """Something outside was touched, or a door did what none may."""


class AttackedStorages:
    """A base, sound storages, and what is outside.

    Attributes:
        top: the directory all of it is in: a tmpfs of its own.
        models: sound storages to start from, by name.
    """

    def __init__(self) -> None:
        self.top = tempfile.mkdtemp(prefix="minifo-hostile-")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "strictatime,mode=755", "hostile", self.top], check=True)
        self.base, self.outside, self.work = (os.path.join(self.top, name) for name in ("base", "outside", "work"))
        self.models = os.path.join(self.top, "models")
        for path in (self.base, self.outside, self.work, self.models, self._at("mnt"), self._at("cwd")):
            os.mkdir(path)
        _make_base(self.base)
        shutil.copytree(self.base, self._at("base2"), symlinks=True)
        for name, data in (("plain", b"another version"), ("copied", b"another version, too")):
            with open(os.path.join(self._at("base2"), name), "wb") as file:
                file.write(data)
        self._make_models()
        self._make_outside()
        self.before = self._look()

    def _at(self, name: str) -> str:
        return os.path.join(self.top, name)

    def close(self) -> None:
        """Take it all away."""
        subprocess.run(["umount", "-l", self.top], check=True)
        os.rmdir(self.top)

    def restore(self) -> None:
        """Make what is outside anew, after harm."""
        shutil.rmtree(self.outside)
        os.mkdir(self.outside)
        self._make_outside()
        self.before = self._look()

    def _make_models(self) -> None:
        closed = os.path.join(self.models, "closed")
        os.mkdir(closed)
        overlay = Overlay.open(self.base, closed, journal=_JOURNAL)
        _change(overlay)
        overlay.close()
        with tarfile.open(os.path.join(self.models, "layer.tar"), "w") as layer:
            layer.add(os.path.join(self.base, "plain"), "imported")
        # the same with a log that was not moved into the database, and an operation that no commit has
        killed = os.path.join(self.models, "killed")
        shutil.copytree(closed, killed)
        if (child := os.fork()) == 0:
            overlay = Overlay.open(self.base, killed, redo_directory=self.work)
            overlay.mkdir(ROOT, b"committed", 0o755, _CALLER)
            overlay.commit()
            attr = overlay.mknod(ROOT, b"acknowledged", 0o100644, 0, _CALLER)
            overlay.write(Ino(attr.ino), 0, b"a" * 5000)
            os._exit(0)
        os.waitpid(child, 0)
        redo = next(name for name in os.listdir(self.work) if name.endswith(".redo"))
        os.rename(os.path.join(self.work, redo), os.path.join(self.models, "redo"))

    def _make_outside(self) -> None:
        for number in range(_OUTSIDE_MIRROR):
            os.makedirs(os.path.join(self.outside, "copy", "0"), exist_ok=True)
            with open(os.path.join(self.outside, "copy", "0", f"{number:x}"), "wb") as file:
                file.write(SECRET)
        with open(os.path.join(self.outside, "secret"), "wb") as file:
            file.write(SECRET)
        os.chmod(os.path.join(self.outside, "secret"), 0o600)
        os.mkdir(os.path.join(self.outside, "empty"))

    # -- what may not change

    def _look(self) -> dict[str, tuple[object, ...]]:
        """Everything that no door may touch, times of access included; looked at without changing them."""
        found: dict[str, tuple[object, ...]] = {self.top: tuple(sorted(os.listdir(self.top)))}
        for top in (self.outside, self.base, self._at("base2"), self._at("cwd"), self._at("mnt")):
            for directory, names, files in os.walk(top):
                for path in (directory, *(os.path.join(directory, name) for name in (*names, *files))):
                    st = os.lstat(path)
                    atime = st.st_atime_ns if stat.S_ISREG(st.st_mode) and top == self.outside else 0
                    size = st.st_size if not stat.S_ISDIR(st.st_mode) else 0
                    # a hard link to what is outside changes its ctime and link count: the attacker's doing
                    found[path] = (st.st_mode, st.st_uid, st.st_gid, size, st.st_mtime_ns, atime)
        return found

    def assert_unharmed(self) -> None:
        """Nothing was made, changed, read or deleted outside of storage, mount point and destination."""
        after = self._look()
        if after != self.before:
            found = {
                k: (self.before.get(k), after.get(k)) for k in after | self.before if after.get(k) != self.before.get(k)
            }
            raise Harm(f"touched outside: {found}")

    # -- running

    def run(self, edits: tuple[Edit, ...], model: str, records: bytes = b"") -> None:
        """Spoil a copy of a model, and send a child through every door.

        Args:
            edits: what is done to the copy.
            model: which storage is copied.
            records: what follows in the redo log of a killed daemon.

        Raises:
            Harm: with the door, and what happened.
        """
        paths = os.path.join(self.work, "room")
        _remove(paths)
        os.mkdir(paths)
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(out)
            code = 1
            with contextlib.suppress(BaseException):
                os.setsid()
                code = Child(self, paths, into).go(edits, model, records)
            os._exit(code)
        os.close(into)
        try:
            harm = self._watch(child, out)
        finally:
            os.close(out)
        try:
            if harm:
                raise Harm(harm)
            self.assert_unharmed()
        except Harm:
            self.restore()
            raise
        finally:
            _remove(paths)

    @staticmethod
    def _watch(child: int, out: int) -> str:
        """Wait for the child; what is wrong, or an empty string."""
        door, text, deadline = "before the first door", b"", time.monotonic() + WALL
        harm = ""
        while True:
            ready, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                with contextlib.suppress(OSError):
                    os.killpg(child, signal.SIGKILL)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return f"{door}: no end after {WALL} s"
            data = os.read(out, 65536)
            if not data:
                break
            text += data
            *lines, text = text.split(b"\n")
            for line in lines:
                told = json.loads(line)
                if told.get("harm"):
                    harm = harm or f"{told['door']}: {told['harm']}"
                door, deadline = told["door"], time.monotonic() + WALL
        _, status, _ = os.wait4(child, 0)
        if status and not harm:
            harm = f"{door}: the child ended with {os.waitstatus_to_exitcode(status)}"
        return harm


def _remove(path: str) -> None:
    """Remove a tree of any depth; Python's own way gives up at a depth of a thousand."""
    subprocess.run(["rm", "-rf", path], check=True)


class Child:
    """What happens in the child."""

    def __init__(self, attacked: AttackedStorages, paths: str, tell: int) -> None:
        self._world = attacked
        self._room = paths
        self._tell = tell
        self._said = os.path.join(paths, "said")
        self._count = 0

    def go(self, edits: tuple[Edit, ...], model: str, records: bytes) -> int:
        self._records = records
        spoilt = os.path.join(self._room, "sto")
        self._model = os.path.join(self._world.models, model)
        shutil.copytree(self._model, spoilt)
        self._report("the edits")
        try:
            apply(edits, StoragePaths(self._world.top, spoilt))
        except BaseException:
            self._report("the edits", traceback.format_exc())
            raise
        self._spoilt = spoilt
        os.chdir(os.path.join(self._world.top, "cwd"))
        logging.getLogger().handlers.clear()  # of an earlier test, whose stream is closed
        fd = os.open(self._said, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        sys.stdin, sys.stdout, sys.stderr = (open(n, m, closefd=False) for n, m in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_AS, (_SPACE, _SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for door, act in self._doors():
            self._through(door, act)
        return 0

    def _report(self, door: str, harm: str = "") -> None:
        os.write(self._tell, json.dumps({"door": door, "harm": harm[-6000:]}).encode() + b"\n")

    def _through(self, door: str, act: Callable[[], object]) -> None:
        self._report(door)
        start, said = sum(os.times()[:4]), os.path.getsize(self._said)
        harm = ""
        try:
            act()
        except BaseException:
            harm = traceback.format_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        with open(self._said, "rb") as file:
            file.seek(said)
            text = file.read()
        if b"Traceback" in text or b"Error: " in text.replace(b"error: ", b""):
            harm = harm or text.decode(errors="replace")
        if SECRET.strip() in text:
            harm = "it shows what is outside"
        took = sum(os.times()[:4]) - start
        if took > CPU:
            harm = f"{took:.1f} s of processor time; {harm}"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._began) << 10
        if grown > MEMORY:
            harm = f"{grown >> 20} MiB of memory; {harm}"
        if harm:
            self._report(door, harm)

    # -- the doors

    def _copy(self) -> str:
        """The spoilt storage, once more; as ``cp -a`` would."""
        self._count += 1
        path = os.path.join(self._room, f"sto{self._count}")
        _copy_storage(self._spoilt, path)
        return path

    def _free(self, name: str) -> str:
        path = os.path.join(self._room, name)
        if os.path.isdir(path):
            _remove(path)
        return path

    def _doors(self) -> Iterator[tuple[str, Callable[[], object]]]:
        base, base2, sto = self._world.base, os.path.join(self._world.top, "base2"), self._spoilt
        fsck = partial(fsck_helper.run, "minifo-fsck")
        command = cli.main
        yield "fsck -n", lambda: fsck(["-n", sto])
        yield "fsck -n -f --base", lambda: fsck(["-n", "-f", "--verify-data", "--json", "--base", base, sto])
        yield "rescue", lambda: self._rescue(sto)
        yield "mount -o ro", lambda: self._look_in(sto, read_only=True)
        yield "mount -o ro,untrusted_sto", lambda: self._look_in(sto, read_only=True, untrusted=True)
        yield "merge", lambda: command(["merge", sto, "--base", base])
        yield "export", lambda: command(["meta", "export", "--lossy", sto, "--base", base, self._free("exported")])
        yield "rebase", lambda: command(["rebase", sto, "--base", base2])
        yield "upgrade -n", lambda: command(["upgrade", "-n", sto])
        yield "diagnose", lambda: command(["diagnose", sto])
        yield "status", lambda: command(["status", "--base", base, sto])
        yield "diff", lambda: command(["diff", "-r", "--ignore-identical", "--base", base, sto])
        yield "status --drift", lambda: command(["status", "--drift", "--json", "--base", base2, sto])
        for view in VIEWS:
            ask = ["sql", "--json", "--base", base2, sto, f"SELECT * FROM {view}"]
            yield f"sql {view}", lambda: command(ask)  # noqa: B023
        yield "diff -u", lambda: command(["diff", "-u", "--max-file", "1", "--base", base, sto])
        yield "du", lambda: command(["du", "--base", base, sto])
        yield "report", lambda: command(["report", "--base", base, "-o", "-", sto])
        yield "state", lambda: command(["state", "--base", base, "--sto", sto, "plain", "made/x", "none"])
        yield "digest", lambda: command(["digest", "--paths", "--base", base2, sto])
        yield "log", lambda: command(["log", "--base", base, sto])
        yield "log --json", lambda: command(["log", "--json", "-n", "5", "--base", base, sto, "*.conf"])
        for place in ("big", "made/newdir"):
            asked = ["--sto", sto, place]
            yield f"which {place}", lambda: command(["which", "--json", "--base", base, *asked])  # noqa: B023
            yield f"cat --base {place}", lambda: command(["cat", "--base", *asked])  # noqa: B023
            yield f"Tab at {place}", lambda: _tab(sto, place)  # noqa: B023
        for verb in ("watch", "metrics", "sync"):
            yield verb, lambda: command([verb, sto])  # noqa: B023
        yield "meta show", lambda: command(["meta", "show", "--json", sto])
        yield "import", lambda: command(["meta", "import", sto, "--base", base, "--sto", self._free("imported")])
        for form in Format:
            out = self._free(f"layer-{form.value}")
            ask = ["export", "--lossy", "--force", "--format", form.value, "-o", out, "--base", base, sto]
            yield f"export --format {form.value}", lambda: self._export(ask)  # noqa: B023
        tree = self._free("tree.tar.gz")
        yield (
            "export --tree",
            lambda: self._export(
                ["export", "--format", "tar", "--tree", "-o", tree, "--base", base, "--at", "first", sto]
            ),
        )
        yield "import into it", lambda: self._import(self._copy(), unfinished=False)
        yield "import that was unfinished", lambda: self._import(self._copy(), unfinished=True)
        yield "vacuum -n", lambda: command(["vacuum", "-n", "--json", "--base", base, sto])
        vacuumed = self._copy()
        yield "vacuum", lambda: command(["vacuum", "-y", "--base", base, vacuumed])
        yield "mount after vacuum", lambda: self._use(vacuumed)
        yield "txn", lambda: self._transact(self._copy())
        for flag in ("-p", "-y"):
            mended = self._copy()
            yield f"fsck {flag}", lambda: fsck([flag, mended])  # noqa: B023
            yield f"mount after fsck {flag}", lambda: self._use(mended)  # noqa: B023
        mended = self._copy()
        yield "fsck -y -f --base", lambda: fsck(["-y", "-f", "--verify-data", "--base", base, mended])
        used = self._copy()
        yield "mount", lambda: self._use(used)
        yield "mount again", lambda: self._use(used)
        for name in ("first", "second", "../../outside/secret", "new\nline"):
            yield f"mount -o at={name!r:.30}", lambda: self._look_in(sto, read_only=True, at=name)  # noqa: B023
        yield "untrusted -o at=", lambda: self._look_in(sto, read_only=True, untrusted=True, at="first")
        returned = self._copy()
        yield "rollback and undo", lambda: self._return(returned)
        yield "fsck -y after rollback", lambda: fsck(["-y", returned])
        redone = self._copy()
        yield "mount of a killed daemon's", lambda: self._redo(redone)
        yield "merge --apply", lambda: self._merge(self._copy())
        settled = self._copy()
        yield "rebase --prepare", lambda: command(["rebase", "--prepare", settled, "--base", base])
        yield "rebase --apply", lambda: command(["rebase", "--apply", "--any-base", settled, "--base", base2])
        yield "upgrade", lambda: command(["upgrade", self._copy()])
        yield "meta restore", lambda: command(["meta", "restore", "--discard", self._copy()])
        yield "import in place", lambda: command(["meta", "import", "--in-place", self._copy(), "--base", base])

    def _rescue(self, sto: str) -> None:
        fsck_helper.run("minifo-fsck", ["--rescue", self._free("rescued"), "--base", self._world.base, sto])

    def _merge(self, sto: str) -> None:
        base = os.path.join(self._room, "mergebase")
        subprocess.run(["cp", "-a", self._world.base, base], check=True)
        cli.main(["merge", sto, "--base", base, "--apply"])
        cli.main(["merge", sto, "--base", base, "--apply"])

    def _export(self, words: list[str]) -> None:
        """Export, and look into what came of it: the bytes of what is outside must not be there."""
        cli.main(words)
        out = words[words.index("-o") + 1]
        if os.path.lexists(out):
            search = ["grep", "-rqaF", SECRET.strip().decode(), out]  # does not follow links, nor read devices
            assert subprocess.run(search, check=False).returncode != 0, "it shows what is outside"
        _remove(out)

    def _transact(self, sto: str) -> None:
        """A transaction that is kept, one that is taken back, and one whose daemon was killed."""
        for ending in ("commit", "take_back", "", "commit"):
            overlay = self._open(sto, read_only=False)
            if overlay is None:
                return
            try:
                _quietly(overlay.trial.mounting, None)
                if _quietly(overlay.trial.begin) is not None:
                    visitor = _Visitor(overlay)
                    visitor.look()
                    visitor.change()
                if ending:
                    _quietly(getattr(overlay.trial, ending))
            finally:
                _quietly(overlay.close)

    def _import(self, sto: str, *, unfinished: bool) -> None:
        """Import into a storage, or into what an import that was killed might have left of it."""
        if unfinished and os.path.isdir(sto) and not os.path.islink(sto):
            for name in set(os.listdir(sto)) - {".minifo-import", "lost+found"}:
                _remove(os.path.join(sto, name))
        cli.main(["import", "--base", self._world.base, "--sto", sto, os.path.join(self._world.models, "layer.tar")])

    def _redo(self, sto: str) -> None:
        """Mount with the log of a daemon that was killed, as if it were of this very database."""
        directory = memory_directory()
        database = os.path.join(sto, "minifo.db")
        if directory is None or not os.path.isfile(database) or os.path.islink(database):
            return
        import uuid

        from minifo.engine.store.redo_records import HEADER, Header

        with open(os.path.join(self._world.models, "redo"), "rb") as file:
            data = file.read()
        header = Header.parse(data[: HEADER.size])
        st = os.stat(database)
        path = os.path.join(directory, f"{uuid.UUID(bytes=header.uuid)}-{st.st_dev:x}-{st.st_ino:x}.redo")
        data = header._replace(dev=st.st_dev, ino=st.st_ino).pack() + data[HEADER.size :]
        try:
            with open(path, "wb") as file:
                file.write(data + self._records)
            self._use(sto, redo=directory)
        finally:
            for name in os.listdir(directory):
                if name.startswith(str(uuid.UUID(bytes=header.uuid))):
                    os.unlink(os.path.join(directory, name))

    # -- what a mount is used for

    def _open(
        self,
        sto: str,
        *,
        read_only: bool,
        untrusted: bool = False,
        redo: str | None = None,
        at: str | None = None,
    ) -> Overlay | None:
        try:
            return Overlay.open(
                self._world.base,
                sto,
                read_only=read_only,
                redo_directory=redo,
                journal=_JOURNAL,
                storage_io=partial(Storage, untrusted=untrusted),
                at=at,
            )
        except MinifoError:
            return None  # refused

    def _return(self, sto: str) -> None:
        overlay = self._open(sto, read_only=False)
        if overlay is not None:
            try:
                _Visitor(overlay).travel()
            finally:
                _quietly(overlay.close)

    def _look_in(self, sto: str, *, read_only: bool, untrusted: bool = False, at: str | None = None) -> None:
        overlay = self._open(sto, read_only=read_only, untrusted=untrusted, at=at)
        if overlay is not None:
            try:
                _Visitor(overlay).look()
            finally:
                _quietly(overlay.close)

    def _use(self, sto: str, redo: str | None = None) -> None:
        overlay = self._open(sto, read_only=False, redo=redo)
        if overlay is not None:
            try:
                visitor = _Visitor(overlay)
                visitor.look()
                visitor.change()
            finally:
                _quietly(overlay.close)


def _tab(storage: str, place: str) -> None:
    """Ask for what a shell that completes a PATH would."""
    context = click.Context(click.Command("cat"))
    context.params["sto"] = storage
    for item in _complete.paths(context, click.Argument(["path"]), f"{place}/"):
        click.echo(item.value)


def _copy_storage(source: str, target: str) -> None:
    """Copy a storage with all that stands in it, links to what is outside and holes included."""
    st = os.lstat(source)
    if stat.S_ISDIR(st.st_mode):
        os.mkdir(target)
        for name in os.listdir(source):
            _copy_storage(os.path.join(source, name), os.path.join(target, name))
    elif stat.S_ISLNK(st.st_mode):
        os.symlink(os.readlink(source), target)
    elif not stat.S_ISREG(st.st_mode):
        os.mknod(target, st.st_mode, st.st_rdev)
    elif st.st_nlink > 1:
        os.link(source, target)
    else:
        with open(source, "rb") as old, open(target, "xb") as new:
            for start, end in data_ranges(old.fileno(), 0, st.st_size):
                os.pwrite(new.fileno(), os.pread(old.fileno(), end - start, start), start)
            os.truncate(new.fileno(), st.st_size)
    if not stat.S_ISLNK(st.st_mode):
        os.chown(target, st.st_uid, st.st_gid)
        os.chmod(target, stat.S_IMODE(st.st_mode))


def _quietly(call: Callable[..., object], *arguments: object) -> object:
    """Call something that may fail as a system call may; anything else is a defect."""
    try:
        return call(*arguments)
    except (OSError, MinifoError):
        return None


class _Visitor:
    """Does with an overlay what users do, as far as it can be done."""

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._found: list[tuple[int, bytes, int, int]] = []

    def look(self) -> None:
        """Look at everything, or as much as is bearable where there is no end of it."""
        ov = self._ov
        waiting, seen = [ROOT], {ROOT}
        while waiting and len(self._found) < 400:
            directory = waiting.pop()
            entries = _quietly(lambda d=directory: list(ov.readdir(d)))
            for entry in (entries or [])[:2000]:  # type: ignore[index]
                assert 0 < len(entry.name) <= 255, entry
                assert b"/" not in entry.name, entry
                if entry.name in (b".", b".."):
                    continue
                attr = _quietly(ov.lookup, directory, entry.name)
                if attr is None:
                    continue
                ino, mode = Ino(attr.ino), attr.mode  # type: ignore[attr-defined]
                self._found.append((directory, entry.name, ino, mode))
                if stat.S_ISDIR(mode) and ino not in seen:
                    seen.add(ino)
                    waiting.append(ino)
                self._read(ino, mode, attr.size)  # type: ignore[attr-defined]

    def _read(self, ino: Ino, mode: int, size: int) -> None:
        ov = self._ov
        if stat.S_ISLNK(mode):
            _quietly(ov.readlink, ino)
        for at in (0, 1 << 30, max(0, size - 10)):
            data = _quietly(ov.read, ino, at, 131072)
            assert data is None or SECRET.strip() not in data, "it shows what is outside"  # type: ignore[operator]
        for name in _quietly(ov.listxattr, ino) or ():  # type: ignore[attr-defined]
            _quietly(ov.getxattr, ino, name)
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            _quietly(ov.ranges.seek, ino, 0, whence)

    def travel(self) -> None:
        """Make checkpoints, return to all there are, and delete them."""
        checkpoints = self._ov.checkpoints
        self.look()
        _quietly(checkpoints.create, "third")
        _quietly(record_digests, self._ov)
        self.change()
        for made in (_quietly(checkpoints.all) or [])[:10]:  # type: ignore[index]
            _quietly(checkpoints.rollback, made.name)
            self._found.clear()
            self.look()
            self.change()
        for patterns in (["made", "/a/b", "!x", "*"], []):
            _quietly(partial(self._ov.keep_lists.chosen, [], ["default"], default=True))
            _quietly(reset, self._ov, Choice(patterns))
        _quietly(self._ov.keep_lists.set, "default", ["a"])
        for act in (checkpoints.undo, checkpoints.redo, checkpoints.undo):
            _quietly(act)
        _quietly(record_digests, self._ov)
        for name in LABELS:
            _quietly(checkpoints.rename, "third", name)
            _quietly(checkpoints.delete, [name])
        self.look()

    def change(self) -> None:
        """Change a part of it, in all ways."""
        ov = self._ov
        for count, (directory, name, ino, mode) in enumerate(self._found[:40]):
            parent, kind = Ino(directory), count % 8
            _quietly(ov.setattr, Ino(ino), SetAttr(mode=stat.S_IMODE(mode) ^ 0o1, uid=5))
            _quietly(ov.setxattr, Ino(ino), b"user.more", b"x" * 100)
            if stat.S_ISREG(mode):
                _quietly(ov.write, Ino(ino), 100, b"written")
                _quietly(ov.ranges.fallocate, Ino(ino), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192)
                _quietly(ov.setattr, Ino(ino), SetAttr(size=50 if count % 2 else 5000))
                _quietly(ov.link, Ino(ino), ROOT, b"link%d" % count)
            if kind == 0:
                _quietly(ov.rename, parent, name, ROOT, b"renamed%d" % count)
            elif kind == 1:
                _quietly(ov.rmdir if stat.S_ISDIR(mode) else ov.unlink, parent, name)
            elif kind == 2:
                _quietly(ov.mkdir, Ino(ino), b"made%d" % count, 0o755, _CALLER)
            elif kind == 3:
                _quietly(ov.rename, parent, name, Ino(ino), b"below", RenameFlags.NOREPLACE)
            if count == 20:
                _quietly(ov.commit)
        attr = _quietly(ov.mknod, ROOT, b"new", 0o100644, 0, _CALLER)
        if attr is not None:
            _quietly(ov.write, Ino(attr.ino), 0, b"n" * 10_000)  # type: ignore[attr-defined]
        for ino in {Ino(ino) for _, _, ino, _ in self._found}:
            _quietly(ov.forget, [ino])


def _make_base(top: str) -> None:
    for name in ("a", "a/b", "x", "x/y", "x/y/z", "olddir", "olddir/in"):
        os.mkdir(os.path.join(top, name))
    sizes = {
        "plain": 100,
        "big": 300_000,
        "a/b/mid": 9000,
        "x/y/z/deep": 50,
        "olddir/in/f": 40,
        "oldfile": 60,
        "gone": 5,
    }
    for name, size in {**sizes, "copied": 5000, "holed": 300_000}.items():
        with open(os.path.join(top, name), "wb") as file:
            file.write((name.encode() * size)[:size])
    os.symlink("plain", os.path.join(top, "link"))


def _change(overlay: Overlay) -> None:
    def ino(path: str) -> Ino:
        at = ROOT
        for name in filter(None, path.split("/")):
            attr = overlay.lookup(at, name.encode())
            assert attr is not None
            at = Ino(attr.ino)
        return at

    overlay.mkdir(ROOT, b"made", 0o755, _CALLER)
    overlay.mkdir(ino("made"), b"sub", 0o755, _CALLER)
    for path, size in {"empty": 0, "small": 300, "large": 50_000, "made/one": 700, "made/sub/two": 9000}.items():
        holder, _, name = path.rpartition("/")
        attr = overlay.mknod(ino(holder), name.encode(), stat.S_IFREG | 0o644, 0, _CALLER)
        overlay.write(Ino(attr.ino), 0, b"z" * size)
    overlay.symlink(ROOT, b"made-link", b"small", _CALLER)
    overlay.mknod(ROOT, b"pipe", stat.S_IFIFO | 0o600, 0, _CALLER)
    overlay.mknod(ROOT, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3), _CALLER)
    overlay.link(ino("small"), ino("made"), b"hard")
    overlay.setxattr(ino("made/one"), b"user.colour", b"red")
    overlay.checkpoints.create("first")
    overlay.unlink(ROOT, b"empty")
    overlay.write(ino("large"), 10, b"later")
    overlay.setxattr(ino("made/one"), b"user.colour", b"blue")
    overlay.checkpoints.create("second", "a note")
    record_digests(overlay)
    overlay.write(ino("big"), 10_000, b"patch" * 800)
    overlay.write(ino("copied"), 10, b"changed")
    overlay.write(ino("x/y/z/deep"), 0, b"changed")
    overlay.rename(ROOT, b"olddir", ino("made"), b"newdir")
    overlay.rename(ROOT, b"oldfile", ROOT, b"newfile")
    overlay.unlink(ROOT, b"gone")
    overlay.ranges.fallocate(ino("holed"), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 40_000)
