"""The extension's encoder for the redo log gives what Python's gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from minifo.engine import RenameFlags
from minifo.engine.store.redo_records import Operation, encode_operation
from minifo.fusefront.extension import _hook
from tests.engine.store.test_redo_log import OPERATIONS


@given(OPERATIONS)
def test_it_encodes_byte_for_byte_alike(operation: Operation) -> None:
    """A mount writes its records in C; the next one may read them without the extension."""
    assert _hook.encode_operation(*operation) == encode_operation(*operation)


def test_other_buffers_and_integers() -> None:
    """Bytes that came as a memoryview, and numbers of another class, are bytes and numbers."""
    values = [memoryview(b"abc")[1:], True, RenameFlags.NOREPLACE, None, "text"]
    assert _hook.encode_operation([(7, values)], 1, 2, []) == encode_operation([(7, values)], 1, 2, [])


NO_OPERATIONS = [[(1, (2**63,))], [(1, (1.5,))], [(1,)], [(1, {1})], [(2**32, ())], [1], [(1, (0,) * 256)], ["ab"]]


@pytest.mark.parametrize("wrong", NO_OPERATIONS)
def test_what_is_no_operation_is_refused(wrong: list[Any]) -> None:
    """A value that has no place in a record is an error, not a record."""
    with pytest.raises((OverflowError, TypeError)):
        _hook.encode_operation(wrong, 1, 2, [])
