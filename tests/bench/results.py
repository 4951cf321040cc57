"""What was measured: one line of JSON for each run, appended as it comes, so that an interrupted benchmark can go on.

The first line says on what machine and how it was run.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.systems import PLAIN


@dataclass(frozen=True)
class Header:
    """What all runs of a file have in common.

    Attributes:
        machine: processor, memory, disk, versions.
        scale: of the sizes.
        repeat: how often each pair is to run.
        seed: of the order of the systems.
    """

    machine: str
    scale: float
    repeat: int
    seed: int


@dataclass(frozen=True)
class Run:
    """One run of one workload on one system.

    Attributes:
        workload: its name.
        system: its name.
        repetition: 0 for the first.
        seconds: what the timed step took.
        durable: from its start until everything was durable.
        written: bytes its device wrote, until all was unmounted and in its place.
        answer: what the step printed.
        digest: of the resulting tree; computed in the first repetition only.
        memory: bytes resident in the daemon.
        share: bytes of the daemon and its helpers, shared ones divided by their users.
        wall: seconds the run took with everything around it.
        error: why there is nothing else.
    """

    workload: str
    system: str
    repetition: int
    seconds: float | None = None
    durable: float | None = None
    written: int | None = None
    answer: str = ""
    digest: str = ""
    memory: int | None = None
    share: int | None = None
    wall: float = 0.0
    error: str = ""


@dataclass
class Document:
    """All runs."""

    header: Header
    runs: list[Run] = field(default_factory=list)

    def of(self, workload: str, system: str) -> list[Run]:
        """The runs of a pair."""
        return [run for run in self.runs if run.workload == workload and run.system == system]

    def median(self, workload: str, system: str, value: Callable[[Run], float | None]) -> float | None:
        """The median of a value of a pair; None if there is none."""
        found = [number for number in map(value, self.of(workload, system)) if number is not None]
        return statistics.median(found) if found else None

    def names(self) -> set[str]:
        """The workloads that were run."""
        return {run.workload for run in self.runs}

    def failed(self, workload: str, system: str) -> list[str]:
        """Why runs of a pair failed."""
        return [run.error for run in self.of(workload, system) if run.error]

    def wrong(self, workload: str) -> dict[str, str]:
        """Systems that found or left something else than the plain directory (or than most, without one), and what."""
        runs = [run for run in self.runs if run.workload == workload and not run.error]
        found: dict[str, str] = {}
        for what, value in (("answer", _answer), ("tree", _digest)):
            values = [(run.system, value(run)) for run in runs if value(run)]
            right = _most(text for system, text in values if system == PLAIN) or _most(text for _, text in values)
            for system, text in values:
                if text != right:
                    found.setdefault(system, f"{what} is {text}, should be {right}")
        return found

    def complaints(self) -> list[str]:
        """All that is wrong or failed, one line each."""
        lines = []
        for workload in sorted(self.names()):
            lines += [f"{workload}: {system}: {what}" for system, what in self.wrong(workload).items()]
        lines += [f"{run.workload}: {run.system}: failed: {run.error}" for run in self.runs if run.error]
        return lines


def _answer(run: Run) -> str:
    return run.answer


def _digest(run: Run) -> str:
    return run.digest


def _most(texts: Iterable[str]) -> str:
    counted = Counter(texts).most_common(1)
    return counted[0][0] if counted else ""


def read(path: Path) -> Document:
    """Read a file; a last line that was cut off is ignored."""
    first, *lines = path.read_text().split("\n")
    document = Document(Header(**json.loads(first)))
    document.runs = [Run(**json.loads(line)) for line in lines[:-1]]
    return document


class Log:
    """A document that is written down as it grows.

    Args:
        path: the file.
        header: of a new one.
        resume: go on with what is there, instead of starting anew; failed runs are run again.
    """

    def __init__(self, path: Path, header: Header, *, resume: bool) -> None:
        self.path = path
        self.document = Document(header)
        if resume and path.exists():
            old = read(path)
            if (old.header.scale, old.header.seed) != (header.scale, header.seed):
                raise ValueError(f"{path} is of another scale or seed: {old.header}")
            if old.header.machine != header.machine:
                raise ValueError(f"{path} is of another machine or version: {old.header.machine}")
            self.document.runs = [run for run in old.runs if not run.error]
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in [asdict(header), *map(asdict, self.document.runs)]))
        part.rename(path)

    def add(self, run: Run) -> None:
        """Note a run."""
        self.document.runs.append(run)
        with open(self.path, "a") as file:
            file.write(json.dumps(asdict(run)) + "\n")

    def has(self, workload: str, system: str, repetition: int) -> bool:
        """True if that run was made."""
        return any(run.repetition == repetition for run in self.document.of(workload, system))
