"""What may stand in a redo log that a mount replays: records that minifo writes, with values that it does not write.

Only root, or the user that mounts, may write where redo logs lie; these records show that a replay of whatever stands
there is done as a whole, or refused.
"""

from __future__ import annotations

import re

from hypothesis import strategies as st

from minifo.engine.store.redo_records import OPERATION, encode_operation, frame
from minifo.engine.store.statements import NUMBERS
from tests.hostile.storage_edits import INTEGERS, NAMES, PATHS

_INTEGERS = st.sampled_from(INTEGERS) | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 200)
_VALUES = st.one_of(_INTEGERS, st.none(), st.sampled_from(NAMES), st.sampled_from(PATHS), st.text(max_size=5))


def _parameters(sql: str) -> int:
    """Return how many values a statement takes."""
    numbered = [int(number) for number in re.findall(r"\?(\d+)", sql)]
    return max(numbered) if numbered else sql.count("?")


#: Numbers and values of statements that minifo has, with as many values as each takes.
_STATEMENTS = st.sampled_from(sorted(NUMBERS)).flatmap(
    lambda sql: st.tuples(st.just(NUMBERS[sql]), st.tuples(*[_VALUES] * _parameters(sql)))
)
_STRANGE = st.tuples(st.integers(0, 2**32 - 1), st.lists(_VALUES, max_size=5).map(tuple))
_OPERATIONS = st.builds(
    encode_operation,
    st.lists(_STATEMENTS | _STATEMENTS | _STRANGE, max_size=4),
    _INTEGERS,
    _INTEGERS,
    st.lists(st.tuples(_INTEGERS, _INTEGERS), max_size=2),
)
_BODIES = st.one_of(
    st.binary(min_size=1, max_size=80),
    st.binary(max_size=80).map(lambda rest: bytes([OPERATION]) + rest),
    st.tuples(_OPERATIONS, st.integers(0, 200), st.binary(min_size=1, max_size=8)).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + len(drawn[2]) :]
    ),
)
#: Bytes at the end of a redo log: whole records with their checksums.
RECORDS = st.lists((_OPERATIONS | _OPERATIONS | _BODIES).map(frame), max_size=3).map(b"".join)
