"""The base files that the extension answers reads of: it holds no more descriptors of them than it was told."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from minifo.fusefront.extension import _hook

_MOST = 64


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Twenty descriptors, each of a pipe without a writer, for the extension to close."""
    reader, writer = os.pipe()
    os.close(writer)
    found = [os.dup(reader) for _ in range(20)]
    os.close(reader)
    yield found
    _hook.limit_files(_MOST)
    assert _open(found) == 0


def _open(descriptors: list[int]) -> int:
    return sum(os.path.lexists(f"/proc/self/fd/{fd}") for fd in descriptors)


@pytest.mark.parametrize("limit", [1, 3, 16])
def test_it_holds_as_many_as_it_was_told(descriptors: list[int], limit: int) -> None:
    """Of more files, some that were published before are closed."""
    _hook.limit_files(limit)
    for ino, fd in enumerate(descriptors, start=1):
        _hook.publish_file(ino, fd, 100)
    assert _open(descriptors) == limit


def test_a_withdrawn_file_is_closed(descriptors: list[int]) -> None:
    """It is found in the smaller table, too."""
    _hook.limit_files(7)
    for ino, fd in enumerate(descriptors[:7], start=1):
        _hook.publish_file(ino, fd, 100)
    for ino in range(1, 8):
        _hook.withdraw(ino)
    assert _open(descriptors[:7]) == 0
    for fd in descriptors[7:]:
        os.close(fd)


@pytest.mark.parametrize("wrong", [0, _MOST + 1])
def test_a_limit_that_it_cannot_keep_is_refused(wrong: int) -> None:
    """The table has 64 places, and none is no limit."""
    with pytest.raises(ValueError, match="1 to 64"):
        _hook.limit_files(wrong)


def test_no_number_is_refused() -> None:
    """A word is no limit, nor is a negative number."""
    with pytest.raises(TypeError):
        _hook.limit_files("many")
    with pytest.raises(OverflowError):
        _hook.limit_files(-1)
