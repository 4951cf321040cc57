"""The picture: a row for each workload, in groups; a dot for each file system, relative to fuse-overlayfs."""

from __future__ import annotations

import math
from html import escape

from tests.bench.bases import Sizes
from tests.bench.catalogue import GROUPS, workloads
from tests.bench.results import Document, Run
from tests.bench.systems import KERNEL, OURS, PEER, UNIONFS

_COLOURS = {OURS: "#1b7837", KERNEL: "#4a78b8", UNIONFS: "#d98b2b"}
_LEFT, _WIDTH, _RIGHT = 330, 620, 40  # names, the scale, margin
_TOP, _ROW, _HEAD = 84, 22, 34  # title, legend and labels; a workload; the title of a group
_TITLE = 'font-size="15" font-weight="bold"'
_EDGE = 1000.0  # what is farther left is drawn at the edge
_MARKS = ((0.001, "1000x faster"), (0.01, "100x"), (0.1, "10x"), (1.0, PEER), (10.0, "10x"), (100.0, "100x slower"))


def _seconds(run: Run) -> float | None:
    return run.seconds


def _place(ratio: float) -> float:
    """Where a ratio lies: from 1000 times faster at the left to 100 times slower at the right."""
    least, most = -math.log10(_EDGE), 2.0
    return _LEFT + (max(least, min(most, math.log10(ratio))) - least) / (most - least) * _WIDTH


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _dot(system: str, x: float, y: float) -> str:
    style = f'fill="{_COLOURS[system]}" fill-opacity="0.85" stroke="white" stroke-width="0.7"'
    if system == OURS:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" {style}/>'
    if system == KERNEL:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" {style}/>'
    points = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
    return f'<polygon points="{points}" {style}/>'


def _rows(document: Document) -> tuple[list[str], int]:
    """The groups and their rows, and where they end."""
    parts, y = [], _TOP
    known = workloads(Sizes.scaled(document.header.scale))
    for group in GROUPS:
        names = [w.name for w in known if w.group == group and document.median(w.name, PEER, _seconds)]
        if not names:
            continue
        y += _HEAD
        parts.append(_text(_LEFT - 12, y - 12, group, 'text-anchor="end" font-weight="bold"'))
        for number, name in enumerate(names):
            if number % 2 == 0:
                parts.insert(0, f'<rect x="8" y="{y - 3}" width="{_LEFT + _WIDTH}" height="{_ROW}" fill="#f4f4f2"/>')
            middle = y + _ROW / 2 - 3
            parts.append(_text(_LEFT - 12, middle + 4, name, 'text-anchor="end"'))
            peer = document.median(name, PEER, _seconds) or math.nan
            times = {system: document.median(name, system, _seconds) for system in reversed(_COLOURS)}
            parts += [_dot(system, _place(found / peer), middle) for system, found in times.items() if found]
            y += _ROW
    return parts, y


def picture(document: Document) -> str:
    """An SVG of each workload's time relative to fuse-overlayfs, on a logarithmic scale; farther left is faster."""
    rows, bottom = _rows(document)
    width, height = _LEFT + _WIDTH + _RIGHT, bottom + 16
    bands = [part for part in rows if part.startswith('<rect x="8"')]
    lines = []
    for ratio, label in _MARKS:
        x, strong = _place(ratio), ratio == 1
        colour = "#777" if strong else "#d5d5d5"
        lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" stroke="{colour}"/>')
        weight = ' font-weight="bold"' if strong else ""
        lines.append(_text(x, _TOP - 8, label, f'text-anchor="middle" fill="#444"{weight}'))
    legend, x = [], float(_LEFT)
    for system in _COLOURS:
        legend += [_dot(system, x, 46), _text(x + 12, 50, system)]
        x += 40 + 8 * len(system)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(_LEFT, 24, "Time relative to fuse-overlayfs; farther left is faster", _TITLE),
        *legend,
        *bands,
        *lines,
        *(part for part in rows if part not in bands),
        "</svg>",
        "",
    ])  # fmt: skip
