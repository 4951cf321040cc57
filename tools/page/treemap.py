"""A treemap: rectangles within rectangles, each as large as the bytes that a directory or a file takes.

It is plain HTML: boxes in boxes, placed in per cent of the box around them, so it can be read without a script.  The
layout is that of Bruls, Huizing and van Wijk, *Squarified Treemaps* (2000).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from ...engine.queries.objects import Usage
from .._size import size
from .elements import Element, element, path_text

WIDTH, HEIGHT = 1100.0, 560.0  # of the whole map: only their ratio counts
_HEADING, _EDGE = 24.0, 4.0  # what the name of a directory and the edges around its contents take of that
_BOXES = 1200  # in the page at most
_CHILDREN = 40  # of one directory at most; the rest is one box
_DEPTH = 12  # directory levels; what is deeper counts for the directory above
_HUES = 6  # page.css has as many


@dataclass
class Directory:
    """A directory and what it takes, with all that is in it.

    Attributes:
        path: from the root of the overlay.
        size: bytes.
        files: how many files with bytes in storage are in it, at any depth.
        directories: by name.
        own: files directly in it, by name, and their bytes.
    """

    path: bytes
    size: int = 0
    files: int = 0
    directories: dict[bytes, Directory] = field(default_factory=dict)
    own: dict[bytes, int] = field(default_factory=dict)

    def add(self, name: bytes, taken: int) -> None:
        """Count a file."""
        self.own[name] = self.own.get(name, 0) + taken


class Box(NamedTuple):
    """A rectangle: its place and its extent, in the unit of what is around it."""

    x: float
    y: float
    width: float
    height: float


def tree(found: Iterable[Usage]) -> Directory:
    """Return the root directory with all that takes bytes in it."""
    root = Directory(b"/")
    for path, taken in found:
        if taken <= 0:
            continue
        *above, name = path.lstrip(b"/").split(b"/", _DEPTH)
        at = root
        at.size += taken
        at.files += 1
        for part in above:
            at = at.directories.setdefault(part, Directory(at.path.rstrip(b"/") + b"/" + part))
            at.size += taken
            at.files += 1
        at.add(name, taken)
    return root


def squarified(sizes: list[float], width: float, height: float) -> list[Box]:
    """Return a rectangle for each size, in the same order, as square as possible.

    Args:
        sizes: falling, each greater than 0.
        width, height: of what they fill together.
    """
    boxes: list[Box] = []
    factor = width * height / sum(sizes) if sizes else 0.0
    x = y = 0.0
    start = 0
    while start < len(sizes):
        short = max(min(width, height), 1e-9)
        end, area = start, 0.0
        worst = float("inf")
        while end < len(sizes):
            more = area + sizes[end] * factor
            largest, smallest = sizes[start] * factor, sizes[end] * factor
            ratio = max(short**2 * largest / more**2, more**2 / (short**2 * smallest))
            if ratio > worst:
                break
            end, area, worst = end + 1, more, ratio
        thick = area / short
        at = 0.0
        for taken in sizes[start:end]:
            long = taken * factor / area * short
            boxes.append(Box(x, y + at, thick, long) if width >= height else Box(x + at, y, long, thick))
            at += long
        if width >= height:
            x, width = x + thick, max(width - thick, 0.0)
        else:
            y, height = y + thick, max(height - thick, 0.0)
        start = end
    return boxes


class Treemap(NamedTuple):
    """A treemap in a page: the element, and the rules of the style sheet that place its boxes."""

    element: Element
    style: str


def treemap(root: Directory) -> Treemap:
    """Return the map of a directory; the largest directories are opened, until there are enough boxes."""
    made = _Map()
    made.draw(root)
    return Treemap(made.top, "\n".join(made.rules))


class _Map:
    def __init__(self) -> None:
        self.top = element("div", class_="treemap", id="treemap")
        self.rules: list[str] = []
        self._order = count()
        self._boxes = 0
        #: directories that are not opened yet: the largest first, with the element, the extent and the hue
        self._waiting: list[tuple[int, int, Directory, Element, Box, int]] = []

    def draw(self, root: Directory) -> None:
        self._box(self.top, root, "all", Box(0, 0, 100, 100), Box(0, 0, WIDTH, HEIGHT), -1)
        while self._waiting and self._boxes < _BOXES:
            _, _, directory, inner, extent, hue = heapq.heappop(self._waiting)
            self._open(directory, inner, extent, hue)

    def _open(self, directory: Directory, inner: Element, extent: Box, hue: int) -> None:
        """Draw what is in a directory."""
        parts: list[tuple[int, bytes, Directory | None]] = [
            (entry.size, name, entry) for name, entry in directory.directories.items()
        ]
        parts += [(taken, name, None) for name, taken in directory.own.items()]
        parts.sort(key=lambda part: (-part[0], part[1]))
        shown, rest = parts[:_CHILDREN], parts[_CHILDREN:]
        sizes = [float(taken) for taken, _, _ in shown]
        if rest:
            sizes.append(float(sum(taken for taken, _, _ in rest)))
        order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
        boxes = squarified([sizes[index] for index in order], extent.width, extent.height)
        for index, box in zip(order, boxes, strict=True):
            place = _per_cent(box, extent)
            if index == len(shown):
                self._leaf(inner, directory.path, f"{len(rest):,} more", int(sizes[index]), place, hue)
                continue
            taken, name, entry = shown[index]
            colour = index % _HUES if hue < 0 else hue
            if entry is None:
                path = directory.path.rstrip(b"/") + b"/" + name
                self._leaf(inner, path, path_text(name), taken, place, colour)
            else:
                self._box(inner, entry, path_text(name), place, box, colour)

    def _box(self, parent: Element, directory: Directory, name: str, place: Box, extent: Box, hue: int) -> None:
        """Draw a directory, and let it wait to be opened."""
        inner = element("div", class_="in")
        what = f"{path_text(directory.path)}: {size(directory.size)}, {directory.files:,} files"
        label = element("span", element("b", name), " ", size(directory.size), class_="label")
        classes = "box dir" + (f" hue{hue}" if hue >= 0 else "")
        found = element("div", label, inner, class_=classes, title=what)
        self._place(parent, found, place)
        room = Box(0, 0, max(extent.width - 2 * _EDGE, 1.0), max(extent.height - _HEADING - _EDGE, 1.0))
        heapq.heappush(self._waiting, (-directory.size, next(self._order), directory, inner, room, hue))

    def _leaf(self, parent: Element, path: bytes, name: str, taken: int, place: Box, hue: int) -> None:
        label = element("span", element("b", name), " ", size(taken), class_="label")
        classes = "box file" + (f" hue{hue}" if hue >= 0 else "")
        self._place(parent, element("div", label, class_=classes, title=f"{path_text(path)}: {size(taken)}"), place)

    def _place(self, parent: Element, found: Element, place: Box) -> None:
        number = f"b{self._boxes}"
        self._boxes += 1
        found.set("id", number)
        self.rules.append(
            f"#{number}{{left:{place.x:.2f}%;top:{place.y:.2f}%;width:{place.width:.2f}%;height:{place.height:.2f}%}}"
        )
        parent.append(found)


def _per_cent(box: Box, whole: Box) -> Box:
    across, down = 100 / whole.width, 100 / whole.height
    return Box(box.x * across, box.y * down, box.width * across, box.height * down)
