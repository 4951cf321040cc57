"""Hypothesis rules for files made without a name (O_TMPFILE), and perhaps given one later; beside state_machine.py."""

from __future__ import annotations

import os
import stat

import hypothesis.strategies as st
from hypothesis.stateful import rule

from tests.model.compared_trees import Handle, caller
from tests.model.state_machine import MODES, PICK, UMASKS, NameRules


class UnnamedRules(NameRules):
    """Files without a name: ``link_handle`` and the rules for content find them among the handles."""

    @rule(pick=PICK, mode=MODES, umask=UMASKS, linkable=st.booleans())
    def make_unnamed(self, pick: int, mode: int, umask: int, linkable: bool) -> None:
        where = self.directory(pick)
        flags = os.O_TMPFILE | os.O_RDWR | os.O_NOATIME | (0 if linkable else os.O_EXCL)
        found: list[int] = []
        with self.t.place(where) as (ino, fd):
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                return
            outcome = self.t.both(
                f"unnamed file in {where!r} {mode:o} umask {umask:o} linkable {linkable}",
                lambda: self.t.ov.tmpfile(ino(), mode, caller(umask), linkable=linkable),
                lambda: self.masked(umask, lambda: found.append(os.open(f"/proc/self/fd/{fd}", flags, mode))),
            )
        if outcome is None:
            return
        attr = outcome[0]
        handle = Handle(b"unnamed", attr.ino, found[0], attr.mode)
        self.t.handles.append(handle)
        self.t.compare_handle(handle)
        self.see_directory(where)
