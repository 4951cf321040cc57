"""Revert: what shows again in a directory that was removed, and how many links it has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine.revert_to import revert_paths
from tests.shared.overlay_sandbox import NOTHING, OverlaySandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """A directory with a file, another directory, and a second name of a file that is elsewhere."""
    found = OverlaySandbox(tmp_path)
    for path in ("g", "c/w", "c/d/x"):
        found.put(path)
    os.link(found.base / "g", found.base / "c/v")
    yield found
    found.close()


def remove_all(sandbox: OverlaySandbox, *, used: bool) -> None:
    """Remove the directory, from the deepest name up; the kernel still refers to all of it if it is used."""
    for path in ("c/d/x", "c/d", "c/v", "c/w", "c"):
        attr = sandbox.find(path)
        if attr is None:
            continue
        ino = sandbox.ino(path)
        if used:
            sandbox.ov.add_lookup(ino)
        (sandbox.ov.rmdir if attr.mode & 0o040000 else sandbox.ov.unlink)(*sandbox.split(path))
        if not used and (path in ("c", "c/d") or sandbox.ov.getattr(ino).nlink == 0):
            sandbox.ov.forget([ino])


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("what", ["c/w", "c/d"])
@pytest.mark.parametrize("to", [None, "before"])
def test_what_was_moved_out_of_it_comes_back(to: str | None, what: str, used: bool, sandbox: OverlaySandbox) -> None:
    """And is not lost: it was the same object."""
    sandbox.ov.checkpoints.create("before")
    sandbox.rename(what, "n")
    remove_all(sandbox, used=used)
    done = revert_paths(sandbox.ov, [b"/c"], to=to)
    assert [action.what for action in done.actions] == ["shown again", "moved back"]
    assert sandbox.names() == ["c", "g"]
    assert sandbox.names("c") == ["d", "v", "w"]
    assert (sandbox.read("c/w"), sandbox.read("c/d/x"), sandbox.attr("c").nlink) == (b"base", b"base", 3)
    assert sandbox.attr("c/v").nlink == 2
    sandbox.reopen()
    assert sandbox.lists() == NOTHING


@pytest.mark.parametrize("used", [False, True])
def test_a_link_of_what_was_in_it_stays(used: bool, sandbox: OverlaySandbox) -> None:
    """With what was written; the file has two names then."""
    sandbox.write("c/w", b"ours")
    sandbox.link("c/w", "n")
    remove_all(sandbox, used=used)
    revert_paths(sandbox.ov, [b"/c"])
    assert sandbox.ov.check() == []
    assert (sandbox.attr("n").ino, sandbox.attr("n").nlink) == (sandbox.attr("c/w").ino, 2)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("others", [False, True])
def test_names_of_files_with_several_are_counted(others: bool, used: bool, sandbox: OverlaySandbox) -> None:
    """Whether the other name shows or not."""
    remove_all(sandbox, used=used)
    if not others:
        sandbox.unlink("g")
    revert_paths(sandbox.ov, [b"/c"])
    assert sandbox.ov.check() == []
    assert sandbox.attr("c/v").nlink == 1 + others


def test_a_directory_that_was_not_there_then_goes_with_its_names(sandbox: OverlaySandbox) -> None:
    """The kernel still refers to it: what is in it shows again, and is removed."""
    sandbox.ov.add_lookup(sandbox.ino("c/d"))
    sandbox.unlink("c/d/x")
    sandbox.ov.rmdir(*sandbox.split("c/d"))
    sandbox.unlink("c/v")
    sandbox.ov.checkpoints.create("then")
    remove_all(sandbox, used=True)
    revert_paths(sandbox.ov, [b"/c"], to="then")
    assert sandbox.ov.check() == []
    assert (sandbox.names("c"), sandbox.attr("g").nlink) == (["w"], 1)


def test_a_name_that_comes_back_beside_another_one_of_the_base(sandbox: OverlaySandbox) -> None:
    """Of a file that was renamed, removed there, and shows at its other name."""
    sandbox.rename("c/v", "n")
    sandbox.ov.checkpoints.create("then")
    sandbox.unlink("n")
    revert_paths(sandbox.ov, [b"/n"], to="then")
    assert sandbox.ov.check() == []
    assert (sandbox.attr("n").ino, sandbox.attr("n").nlink) == (sandbox.attr("g").ino, 2)
