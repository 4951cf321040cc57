"""What the benchmark shows: a table of medians with ratios, and a picture of the ratios."""

from __future__ import annotations

import math
from pathlib import Path

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_OURS = "minifo"
_PEER = "fuse-overlayfs"
_COLOURS = {"minifo": "#1b7837", "kernel overlayfs": "#5e82b5", "unionfs-fuse": "#c58b3b"}

Medians = dict[str, dict[str, float]]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def table(medians: Medians, systems: list[str]) -> str:
    """A Markdown table: a row for each workload, a column for each file system, and ours as a ratio to two peers."""
    lines = ["| | " + " | ".join(systems) + " | minifo ÷ kernel | minifo ÷ fuse-overlayfs |"]
    lines.append("|---" * (len(systems) + 3) + "|")
    for workload, found in medians.items():
        cells = [_time(found.get(system)) for system in systems]
        for peer in ("kernel overlayfs", _PEER):
            ours, theirs = found.get(_OURS), found.get(peer)
            cells.append(f"{ours / theirs:.2f}" if ours and theirs else "-")
        lines.append(f"| {workload} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(medians: Medians) -> str:
    """An SVG of each workload's time relative to fuse-overlayfs, on a logarithmic scale; shorter is faster."""
    rows = [(name, found) for name, found in medians.items() if _PEER in found]
    height, left, width = 26 * len(rows) + 60, 250, 560
    middle = left + width / 2

    def place(ratio: float) -> float:
        return middle + max(-1.0, min(1.0, math.log10(ratio) / 2)) * width / 2

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 30}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for ratio, label in ((0.01, "100x faster"), (0.1, "10x"), (1, "fuse-overlayfs"), (10, "10x slower")):
        parts.append(f'<line x1="{place(ratio)}" x2="{place(ratio)}" y1="30" y2="{height - 20}" stroke="#ccc"/>')
        parts.append(f'<text x="{place(ratio)}" y="22" text-anchor="middle" fill="#555">{label}</text>')
    for number, (name, found) in enumerate(rows):
        y = 48 + 26 * number
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{name}</text>')
        for system, colour in reversed(_COLOURS.items()):
            if system in found:
                x = place(found[system] / found[_PEER])
                parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="{6 if system == _OURS else 4}" fill="{colour}"/>')
    for number, (system, colour) in enumerate(_COLOURS.items()):
        x = left + 170 * number
        parts.append(f'<circle cx="{x}" cy="{height - 10}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{x + 10}" y="{height - 6}">{system}</text>')
    return "\n".join([*parts, "</svg>", ""])


def write_docs(medians: Medians, systems: list[str], machine: str, repeat: int) -> None:
    """Write docs/performance.md (below its marker line) and docs/performance.svg."""
    page = _DOCS / "performance.md"
    marker = "<!-- measured: everything below is written by tests/bench/bench.py --write -->"
    head = page.read_text().split(marker)[0] if page.exists() else "# Performance\n\n"
    text = (
        f"{head}{marker}\n\nMachine: {machine}. Medians of {repeat} interleaved runs, each in a mount of its own;"
        " the machine was shared, so read the ratios.\n\n"
        "![Time relative to fuse-overlayfs](performance.svg)\n\n" + table(medians, systems) + "\n"
    )
    page.write_text(text)
    (_DOCS / "performance.svg").write_text(picture(medians))
