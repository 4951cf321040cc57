"""Reading a directory piece by piece while it changes: every name that stays is seen exactly once."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from minifo.engine import ROOT
from minifo.engine.tree import listings
from tests.shared.file_trees import remove_tree, scratch
from tests.shared.overlay_sandbox import OverlaySandbox

NAMES = [f"n{index}" for index in range(40)]
STEP = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 7)),
    st.tuples(st.sampled_from(["create", "unlink", "rename", "drop", "restart"]), st.integers(0, 39)),
)


def _apply(sandbox: OverlaySandbox, step: str, name: str, dropped: set[str]) -> None:
    """Change the directory, or make the engine forget its sorted listing."""
    if step == "create" and sandbox.find(name) is None:
        sandbox.create(name)
    elif step == "unlink" and sandbox.find(name) is not None:
        sandbox.unlink(name)
        dropped.add(name)
    elif step == "rename" and sandbox.find(name) is not None:
        sandbox.rename(name, f"renamed-{name}")
        dropped.add(name)
    elif step == "drop":
        sandbox.ov.merge.listings.drop(ROOT)
    elif step == "restart":
        sandbox.reopen()  # cookies stay right within one process


@settings(max_examples=settings().max_examples * 2)
@given(present=st.sets(st.sampled_from(NAMES)), steps=st.lists(STEP, max_size=40))
def test_no_name_is_skipped_or_repeated(present: set[str], steps: list[tuple[str, int]]) -> None:
    """Names that are there from the first read to the last show once, the others at most once each time they appear."""
    top = scratch()
    try:
        sandbox = OverlaySandbox(top)
        for name in present:
            (sandbox.base / name).touch()
        seen: list[str] = []
        dropped: set[str] = set()
        after = 0
        for step, value in steps:
            if step == "read":
                for entry in islice(sandbox.ov.readdir(ROOT, after), value):
                    seen.append(os.fsdecode(entry.name))
                    after = entry.cookie
            else:
                _apply(sandbox, step, NAMES[value], dropped)
        seen += [os.fsdecode(entry.name) for entry in sandbox.ov.readdir(ROOT, after)]
        stayed = present - dropped
        assert stayed <= set(seen)
        assert all(seen.count(name) == 1 for name in stayed | {".", ".."})
        assert sorted(set(sandbox.names())) == sandbox.names()
        sandbox.close()
    finally:
        remove_tree(top)


def test_kept_listings_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many names are kept the oldest listings go, and reading goes on where it was."""
    monkeypatch.setattr(listings, "_CACHED_NAMES", 20)
    sandbox = OverlaySandbox(tmp_path)
    for directory in "abcd":
        for name in NAMES[:15]:
            sandbox.put(f"{directory}/{name}")
    started = {directory: list(islice(sandbox.ov.readdir(sandbox.ino(directory)), 9)) for directory in "abcd"}
    for directory, entries in started.items():
        entries += sandbox.ov.readdir(sandbox.ino(directory), entries[-1].cookie)
        assert sorted(os.fsdecode(entry.name) for entry in entries[2:]) == sorted(NAMES[:15])
    sandbox.close()
