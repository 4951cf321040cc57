"""Keep-lists: facts of the storage, durable, bounded, and refused where somebody has made them impossible."""

from __future__ import annotations

import pytest

from minifo.engine.errors import Corrupt, StateError
from minifo.engine.fsck.session import FsckSession
from minifo.engine.tree.row_checks import KEEP_LIST, KEEP_LIST_MAX, KEEP_LISTS_MAX
from tests.shared.file_trees import change_rows
from tests.shared.overlay_sandbox import OverlaySandbox


def test_lists_are_durable(sandbox: OverlaySandbox) -> None:
    """They are there after a kill, in the order of their names."""
    lists = sandbox.ov.keep_lists
    lists.set("default", ["a", "/b/c", "é *"])
    lists.set("another", ["x"])
    lists.set("another", ["y"])
    sandbox.kill()
    lists = sandbox.ov.keep_lists
    assert lists.all() == {"another": ["y"], "default": ["a", "/b/c", "é *"]}
    assert lists.find("another") == ["y"]
    lists.delete(["another"])
    with pytest.raises(StateError, match="there is no keep-list 'another'"):
        lists.delete(["default", "another"])
    assert list(lists.all()) == ["default"]


def test_a_return_does_not_change_them(sandbox: OverlaySandbox) -> None:
    """They are of no state of the overlay."""
    sandbox.ov.checkpoints.create("one")
    sandbox.ov.keep_lists.set("default", ["a"])
    sandbox.create("a")
    sandbox.ov.checkpoints.rollback("one")
    assert sandbox.ov.keep_lists.all() == {"default": ["a"]}


def test_what_a_reset_uses(sandbox: OverlaySandbox) -> None:
    """The list default only where nothing else is said."""
    lists = sandbox.ov.keep_lists
    assert lists.chosen([], [], default=True) == ([], [])
    lists.set("default", ["a"])
    lists.set("more", ["b"])
    assert lists.chosen([], [], default=True) == (["a"], ["default"])
    assert lists.chosen([], [], default=False) == ([], [])
    assert lists.chosen(["x"], [], default=True) == (["x"], [])
    assert lists.chosen(["x"], ["more"], default=True) == (["x", "b"], ["more"])
    with pytest.raises(StateError, match="no keep-list 'none'"):
        lists.chosen([], ["none"], default=True)


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("", ["a"]),
        ("../x", ["a"]),
        ("n" * 65, ["a"]),
        ("x", []),
        ("x", [""]),
        ("x", ["a", " "]),
        ("x", ["a\nb"]),
        ("x", ["a\0b"]),
        ("x", ["\udcff"]),
        ("x", ["a" * (KEEP_LIST_MAX + 1)]),
    ],
)
def test_impossible_ones_are_refused(name: str, patterns: list[str], sandbox: OverlaySandbox) -> None:
    """In a line, and nothing was changed."""
    with pytest.raises(StateError, match="keep-list"):
        sandbox.ov.keep_lists.set(name, patterns)
    assert sandbox.ov.keep_lists.all() == {}


def test_there_are_not_too_many(sandbox: OverlaySandbox) -> None:
    """All of them are read with the facts of the storage."""
    for number in range(KEEP_LISTS_MAX):
        sandbox.ov.keep_lists.set(f"l{number}", ["a"])
    with pytest.raises(StateError, match="32 keep-lists already"):
        sandbox.ov.keep_lists.set("more", ["a"])
    sandbox.ov.keep_lists.set("l0", ["b"])


@pytest.mark.parametrize(
    "row",
    ["'default', 'text'", "'default', 5", "'default', NULL", "'default', x''", "'default', x'ff'", "'../x', x'61'"],
)
def test_damaged_ones(row: str, sandbox: OverlaySandbox) -> None:
    """A reset that might need one is refused, the overlay is not; minifo-fsck removes it."""
    sandbox.ov.keep_lists.set("good", ["a"])
    sandbox.close()
    key, value = row.split(", ")
    change_rows(str(sandbox.sto / "minifo.db"), {}, [f"INSERT INTO overlay VALUES ('{KEEP_LIST}' || {key}, {value})"])
    with pytest.raises(Corrupt, match=r"keep-list .* is impossible"):
        sandbox.ov.keep_lists.chosen([], [], default=True)
    sandbox.create("new")
    sandbox.close()
    with FsckSession(str(sandbox.sto), write=False) as session:
        assert [problem.code for problem in session.check()] == ["E212"]
