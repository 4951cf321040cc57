"""The numbered invariants: the code that keeps each of them names it."""

from __future__ import annotations

import re
from pathlib import Path

from minifo import engine
from minifo.engine.fsck.problems import KINDS
from minifo.engine.store import invariants

_NAMED = re.compile(r"\binvariants? (\d+(?:(?:, | and )\d+)*)")


def test_every_invariant_is_named_where_it_is_kept() -> None:
    """A comment in the storage or the tree names each number, and none that there is not."""
    numbers = {int(code[1:]) for code in KINDS if code < "E100"}
    assert {invariant.number for invariant in invariants.INVARIANTS} < numbers
    root = Path(next(iter(engine.__path__)))
    named: set[int] = set()
    for path in [*root.glob("store/*.py"), *root.glob("tree/*.py")]:
        if path.samefile(invariants.__file__):
            continue
        for found in _NAMED.findall(path.read_text()):
            named |= {int(number) for number in re.findall(r"\d+", found)}
    assert named == numbers
