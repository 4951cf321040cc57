"""Patterns: whichever are asked first, the answer is that of all of them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifo.engine.errors import UsageError
from minifo.fusefront.control.patterns import Choice, Patterns

_NAMES = st.sampled_from(["a", "b", "ab", "a.x", "b.x", "c", ".h", "é", " s"])
_PATTERNS = st.sampled_from(
    [
        *("a", "/a", "a/b", "/a/*", "*.x", "a*", "!b.x", "!a", "/a/b/", "**/b", "a/**/b", "é", "[ab]", "?", "*"),
        *("/b/c", "\\a", "#a", "b ", ".h", "/ab/a.x", "*b", "**", "a/**", "/a.*/b", "[*.x", "/*/c"),
    ]
)


@given(patterns=st.lists(_PATTERNS, min_size=1, max_size=4), names=st.lists(_NAMES, min_size=1, max_size=4))
def test_a_choice_is_what_the_patterns_match(patterns: list[str], names: list[str]) -> None:
    """For any path, and what is said of its directory does not contradict it."""
    path = os.fsencode("/" + "/".join(names))
    expected = Patterns(patterns).match(path)
    choice = Choice(patterns)
    assert choice.match(path) == expected
    scope = choice.scope(path.rpartition(b"/")[0] or b"/")
    assert not scope.is_whole or expected
    assert not scope.is_empty or not expected
    assert choice.is_any or not expected


def test_no_pattern() -> None:
    """It limits no list, and keeps nothing."""
    assert Patterns([]).match(b"/a")
    assert not Choice([]).match(b"/a")
    assert not Choice([]).is_any


@pytest.mark.parametrize("kind", [Patterns, Choice])
def test_what_is_no_pattern(kind: type[Patterns] | type[Choice]) -> None:
    """It is said in a line."""
    with pytest.raises(UsageError, match="a pattern is impossible"):
        kind(["a", "!"])


@pytest.mark.parametrize("pattern", ["", "/", "//", " "])
def test_one_that_keeps_nothing_is_refused(pattern: str) -> None:
    """The user surely meant something, and it would be taken away."""
    with pytest.raises(UsageError, match="matches nothing"):
        Choice([pattern])


@pytest.mark.parametrize("patterns", [["/a/b"], ["*.conf", "x"], ["/etc/*.d/"]])
def test_few_are_asked(patterns: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory that no pattern is about, none is."""

    def refuse(spec: object, path: bytes) -> bool:
        raise AssertionError(path)

    choice = Choice(patterns)
    monkeypatch.setattr("minifo.fusefront.control.patterns._matches", refuse)
    assert not choice.scope(b"/other/place").match(b"file")
