"""Hypothesis rules for a vacuum: nothing that shows changes, whatever is given back."""

from __future__ import annotations

import os
import stat
from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis.stateful import rule

from minifo.engine import SetAttr, vacuum
from tests.model.state_machine import PICK, Machine
from tests.shared import file_trees


class VacuumRules(Machine):
    """vacuum, and files that get again what the base has."""

    @rule(pick=PICK, times=st.booleans(), piece=st.booleans())
    def write_as_base(self, pick: int, times: bool, piece: bool) -> None:
        """A file gets the bytes of the base, or a piece of them, and perhaps its time."""
        base = os.fsencode(self.t.base)
        found = [path for path in self.paths() if stat.S_ISREG(self.mode(path)) and os.path.isfile(base + path)]
        if not found:
            return
        path = found[pick % len(found)]
        self.t.make_room()
        there, mine = os.lstat(base + path), self.t.root + path
        data = file_trees.content(base + path)
        start = pick * 700 % (len(data) + 1) if piece else 0
        fd = os.open(mine, os.O_WRONLY)
        try:
            self.t.both(
                f"write {path!r} as in the base from {start} on",
                lambda: self.t.ov.write(self.t.ino(path), start, data[start:]),
                lambda: os.pwrite(fd, data[start:], start),
            )
        finally:
            os.close(fd)
        if os.lstat(mine).st_size > len(data):
            self.t.both(
                f"truncate {path!r} as in the base",
                lambda: self.t.setattr(self.t.ino(path), size=len(data)),
                lambda: os.truncate(mine, len(data)),
            )
        if times:
            self.t.both(
                f"utimens {path!r} as in the base",
                lambda: self.t.ov.setattr(self.t.ino(path), SetAttr(mtime=there.st_mtime_ns)),
                lambda: file_trees.utimens(mine, None, there.st_mtime_ns),
            )
        fd = os.open(mine, os.O_RDONLY | os.O_NOATIME)
        try:
            self.t.wrote(fd)
        finally:
            os.close(fd)
        self.see(path, content=True)

    @rule(tried=st.booleans(), few=st.booleans())
    def vacuum(self, tried: bool, few: bool) -> None:
        """What stat, read and getxattr say stays; a second vacuum finds nothing; a dry run finds the same."""
        ov = self.t.ov
        self.t.finish_commit()
        with patch.object(vacuum, "_WORTH", 1 if few else 64 << 10):
            dry = vacuum.Vacuum(ov, apply=False)
            if tried:
                dry.run()
            before = self._seen()
            work = vacuum.Vacuum(ov, apply=True)
            work.run()
            self.t.log.append(f"vacuum {work.found}")
            self.t.snap()
            assert not work.skipped, self.t.told("what cannot be looked at")
            assert self._seen() == before, self.t.told("something shows otherwise")
            if tried:
                counts = [[given.number for given in found.found.values()][:3] for found in (dry, work)]
                assert counts[0] == counts[1], self.t.told(f"the dry run found {dry.found}")
            self.t.compare_all()
            self.t.check_storage()
            again = vacuum.Vacuum(ov, ("copies", "attributes", "whiteouts", "objects"), apply=False)
            again.run()
            assert not any(given.number for given in again.found.values()), self.t.told(f"{again.found} are left")

    def _seen(self) -> dict[bytes, object]:
        inos = [(path, ino) for path, (_, ino) in self.t.numbers().items()]
        return {path: self.t.ov.getattr(ino)._replace(blocks=0) for path, ino in inos}
