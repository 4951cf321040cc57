"""Reading a directory piece by piece while it changes: every name that stays is seen exactly once."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from lab import Lab
from support import remove_tree, scratch

from minifo.engine import ROOT
from minifo.engine.tree import merged_view

NAMES = [f"n{index}" for index in range(40)]
STEP = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 7)),
    st.tuples(st.sampled_from(["create", "unlink", "rename", "drop", "restart"]), st.integers(0, 39)),
)


def _apply(lab: Lab, step: str, name: str, dropped: set[str]) -> None:
    """Change the directory, or make the engine forget its sorted listing."""
    if step == "create" and lab.find(name) is None:
        lab.create(name)
    elif step == "unlink" and lab.find(name) is not None:
        lab.unlink(name)
        dropped.add(name)
    elif step == "rename" and lab.find(name) is not None:
        lab.rename(name, f"renamed-{name}")
        dropped.add(name)
    elif step == "drop":
        lab.ov.merge.drop_listing(ROOT)
    elif step == "restart":
        lab.reopen()  # cookies stay right within one process


@settings(max_examples=settings().max_examples * 2)
@given(present=st.sets(st.sampled_from(NAMES)), steps=st.lists(STEP, max_size=40))
def test_no_name_is_skipped_or_repeated(present: set[str], steps: list[tuple[str, int]]) -> None:
    """Names that are there from the first read to the last show once, the others at most once each time they appear."""
    top = scratch()
    try:
        lab = Lab(top)
        for name in present:
            (lab.base / name).touch()
        seen: list[str] = []
        dropped: set[str] = set()
        after = 0
        for step, value in steps:
            if step == "read":
                for entry in islice(lab.ov.readdir(ROOT, after), value):
                    seen.append(os.fsdecode(entry.name))
                    after = entry.cookie
            else:
                _apply(lab, step, NAMES[value], dropped)
        seen += [os.fsdecode(entry.name) for entry in lab.ov.readdir(ROOT, after)]
        stayed = present - dropped
        assert stayed <= set(seen)
        assert all(seen.count(name) == 1 for name in stayed | {".", ".."})
        assert sorted(set(lab.names())) == lab.names()
        lab.close()
    finally:
        remove_tree(top)


def test_kept_listings_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many names are kept the oldest listings go, and reading goes on where it was."""
    monkeypatch.setattr(merged_view, "_CACHED_NAMES", 20)
    lab = Lab(tmp_path)
    for directory in "abcd":
        for name in NAMES[:15]:
            lab.put(f"{directory}/{name}")
    started = {directory: list(islice(lab.ov.readdir(lab.ino(directory)), 9)) for directory in "abcd"}
    for directory, entries in started.items():
        entries += lab.ov.readdir(lab.ino(directory), entries[-1].cookie)
        assert sorted(os.fsdecode(entry.name) for entry in entries[2:]) == sorted(NAMES[:15])
    lab.close()
