"""What the benchmark shows: tables of medians with ratios, and what of it goes into the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tests.bench.bases import Sizes
from tests.bench.catalogue import GROUPS, Workload, workloads
from tests.bench.mounting import memory_rows, mount_rows
from tests.bench.picture import picture
from tests.bench.results import Document, Run
from tests.bench.systems import KERNEL, OURS, PEER, SYSTEMS, UNIONFS

MARKER = "<!-- measured: everything below is written by tests/bench/bench.py --write -->"
_DOCS = Path(__file__).resolve().parents[2] / "docs"

Value = Callable[[Run], float | None]


def show_time(seconds: float) -> str:
    """Seconds for people: three digits and a unit."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{_digits(seconds / unit)} {name}"
    return f"{_digits(seconds * 1e6)} µs"


def show_bytes(size: float) -> str:
    """Bytes for people."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{_digits(size / unit)} {name}"
    return f"{size:.0f}"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _seconds(run: Run) -> float | None:
    return run.seconds


def _durable(run: Run) -> float | None:
    return run.durable


def _written(run: Run) -> float | None:
    return run.written


def _memory(run: Run) -> float | None:
    return run.memory


def _share(run: Run) -> float | None:
    return run.share


def _ratio(ours: float | None, theirs: Iterable[float | None]) -> str:
    """Ours to the least of theirs."""
    known = [value for value in theirs if value]
    return f"{_digits(ours / min(known))}" if ours is not None and known else "-"


_PEERS = {"÷ kernel": (KERNEL,), "÷ fuse-overlayfs": (PEER,), "÷ better of both FUSE": (PEER, UNIONFS)}


def _table(
    document: Document, names: list[str], value: Value, show: Callable[[float], str], systems: list[str]
) -> list[str]:
    """A row for each workload, a column for each system, then ours as a ratio to the others, if one is the kernel's."""
    ratios = list(_PEERS.items()) if KERNEL in systems and OURS in systems else []
    heads = [*systems, *(head for head, _ in ratios)]
    lines = ["| | " + " | ".join(heads) + " |", "|---" + "|--:" * len(heads) + "|"]
    for name in names:
        medians = {system: document.median(name, system, value) for system in systems}
        wrong = document.wrong(name)
        cells = []
        for system in systems:
            found = medians[system]
            cell = "-" if found is None else show(found)
            if document.failed(name, system):
                cell += " **failed**"
            if system in wrong:
                cell += " **wrong**"
            cells.append(cell)
        cells += [_ratio(medians[OURS], (medians.get(peer) for peer in peers)) for _, peers in ratios]
        title = f"{name} **(wrong)**" if wrong else name
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _rare(document: Document) -> str:
    """Which workloads were run less often than asked, in a sentence."""
    counts: dict[str, int] = {}
    for workload, system in {(run.workload, run.system) for run in document.runs}:
        runs = len(document.of(workload, system))
        counts[workload] = min(counts.get(workload, runs), runs)
    rare = [f"{name} ({count})" for name, count in sorted(counts.items()) if count < document.header.repeat]
    return f" For the sake of time these ran less often: {'; '.join(rare)}." if rare else ""


def tables(document: Document) -> str:
    """All tables, in Markdown."""
    sizes = Sizes.scaled(document.header.scale)
    known = document.names()
    present = {run.system for run in document.runs}
    systems = [system.name for system in SYSTEMS if system.name in present]
    daemons = [system.name for system in SYSTEMS if system.fuse and system.name in present]
    ran = [workload for workload in workloads(sizes) if workload.name in known]
    lines = []

    def names(wanted: Callable[[Workload], bool]) -> list[str]:
        return [workload.name for workload in ran if wanted(workload)]

    for group in GROUPS:
        if rows := names(lambda workload, group=group: workload.group == group):  # type: ignore[misc]
            lines += [f"## Time: {group}", "", *_table(document, rows, _seconds, show_time, systems)]
    if rows := names(lambda workload: workload.writes):
        lines += ["## Time until everything is durable", ""]
        lines += ["The same runs, with the sync of mount and storage that followed at once.", ""]
        lines += _table(document, rows, _durable, show_time, systems)
        lines += ["## Bytes written to the device", ""]
        lines += ["From the start of the timed step until all is unmounted and the journal is written back.", ""]
        lines += _table(document, rows, _written, show_bytes, systems)
    if rows := [row for row in mount_rows(sizes) if row in known]:
        lines += ["## Mount time", "", "From the start of the mount command until the mount answers.", ""]
        lines += _table(document, rows, _seconds, show_time, [name for name in systems if name != "plain directory"])
    if rows := [row for row in memory_rows(sizes) if row in known]:
        lines += ["## Memory of the daemon", "", "Resident, the largest process:", ""]
        lines += _table(document, rows, _memory, show_bytes, daemons)
        lines += ["Proportional share, with all helper processes:", ""]
        lines += _table(document, rows, _share, show_bytes, daemons)
    return "\n".join(lines)


def text(document: Document) -> str:
    """Machine and tables."""
    header = document.header
    scale = "" if header.scale == 1 else f" Sizes are {header.scale:g} of the documented ones."
    intro = (
        f"Machine: {header.machine}.\n\nMedians of {header.repeat} interleaved runs, each in a mount of its own"
        f" (seed {header.seed}).{scale}{_rare(document)}"
    )
    return f"{intro}\n\n{tables(document)}"


def page_with(head: str, document: Document) -> str:
    """A page with everything below the marker replaced."""
    image = "![Time relative to fuse-overlayfs](performance.svg)"
    return f"{head.split(MARKER)[0]}{MARKER}\n\n{image}\n\n{text(document)}"


def write_docs(document: Document, docs: Path = _DOCS) -> None:
    """Write docs/performance.md, below its marker line, and docs/performance.svg."""
    page = docs / "performance.md"
    page.write_text(page_with(page.read_text(), document))
    (docs / "performance.svg").write_text(picture(document))
