"""The treemap: boxes as large as what they stand for, and never too many."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifo.engine.queries.objects import Usage
from minifo.tools.page.treemap import squarified, tree, treemap

SIZES = st.lists(st.integers(1, 10**12), min_size=1, max_size=60).map(lambda sizes: sorted(map(float, sizes))[::-1])


@given(SIZES, st.floats(1, 2000), st.floats(1, 2000))
def test_areas_are_sizes(sizes: list[float], width: float, height: float) -> None:
    """Each box has its share of the area, lies within, and overlaps no other one."""
    boxes = squarified(sizes, width, height)
    assert len(boxes) == len(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(size / sum(sizes) * width * height, rel=1e-6)
        assert -1e-6 <= box.x <= box.x + box.width <= width * (1 + 1e-6)
        assert -1e-6 <= box.y <= box.y + box.height <= height * (1 + 1e-6)
    for index, one in enumerate(boxes):
        for other in boxes[:index]:
            across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert across <= 1e-6 * width or down <= 1e-6 * height


def test_boxes_are_nearly_square() -> None:
    """The example of the paper: sizes 6, 6, 4, 3, 2, 2, 1 in 6 by 4."""
    boxes = squarified([6, 6, 4, 3, 2, 2, 1], 6, 4)
    assert [(round(box.width, 2), round(box.height, 2)) for box in boxes[:4]] == [
        *((3, 2), (3, 2)),
        *((1.71, 2.33), (1.29, 2.33)),
    ]


def test_nothing_takes_nothing() -> None:
    """Without bytes there is no box; hostile sizes count as none."""
    assert squarified([], 10, 10) == []
    assert tree([Usage(b"/a", 0), Usage(b"/b", -5)]).size == 0


def test_many_and_deep() -> None:
    """The number of boxes is bounded, whatever the storage says; every byte is in the root."""
    found = [Usage(b"/d%d/e%d/f%d" % (i % 7, i % 311, i), i + 1) for i in range(20_000)]
    found.append(Usage(b"/x" * 30_000, 10**9))
    root = tree(found)
    assert (root.size, root.files) == (sum(entry.size for entry in found), len(found))
    made = treemap(root)
    assert 1000 < len(re.findall(r"^#b\d+\{", made.style, re.M)) < 1300
    assert max(len(box.get("title") or "") for box in made.element.iter()) < 1200


def test_names_that_are_no_names() -> None:
    """A file whose parent is a file, an empty name, an inode without a path: all of it is shown."""
    root = tree([Usage(b"/a", 1), Usage(b"/a/b", 2), Usage(b"/", 4), Usage(b"<deleted, open: inode 7>", 8)])
    assert root.size == 15
    treemap(root)
