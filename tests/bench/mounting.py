"""Mount time without changes and with many, and the memory of the daemons at start and after a long walk."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from tests.bench.bases import Sizes
from tests.bench.catalogue import Place, shell
from tests.bench.measure import Bench
from tests.bench.results import Run
from tests.bench.systems import Mount, System

AT_LEAST = 5  # mounts of each pair, for they are quick


def mount_rows(sizes: Sizes) -> tuple[str, str]:
    """Names of the rows of mount times: without changes, and with."""
    return "mount, no changes", f"mount, {sizes.names:,} changes"


def memory_rows(sizes: Sizes) -> tuple[str, str]:
    """Names of the rows of memory: at start, and after the walk."""
    return "memory at start", f"memory after ls -lR of {sizes.names:,} entries"


def _changes(sizes: Sizes) -> str:
    """Six of ten changes are new files, two are deletions in the base, two are chmods there."""
    folders, fifth = max(1, sizes.names * 6 // 10 // 1000), sizes.names // 5
    created = sizes.names * 6 // 10 // folders
    return (
        f'for i in $(seq {folders}); do mkdir d$i; (cd d$i && "$TOOLS/worker" create {created} >/dev/null); done;'
        f" cd names; ls | head -n {fifth} | xargs rm;"
        f" ls | head -n {fifth} | xargs chmod 600"
    )


def mounting(
    bench: Bench, systems: list[System], repeat: int, seed: int, done: set[tuple[str, str, int]]
) -> Generator[Run, None, None]:
    """Measure all of it, but for the runs that are done; each storage was mounted once before.

    Yields:
        the runs, as they come
    """
    empty, full = mount_rows(bench.sizes)
    start, walked = memory_rows(bench.sizes)
    systems = [system for system in systems if system.kind != "plain"]

    def missing(system: System, rows: Iterable[str]) -> bool:
        return any((row, system.name, number) not in done for row in rows for number in range(max(repeat, AT_LEAST)))

    base = bench.base("names")
    storages: dict[tuple[str, str], Path] = {}
    for number, system in enumerate(systems):
        if not missing(system, (empty, full)):
            continue
        for row, script in ((empty, "ls"), (full, _changes(bench.sizes))):
            work = bench.work(f"kept-{number}-{'full' if row == full else 'empty'}")
            try:
                _in_mount(system, base, work, bench, script)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                yield Run(row, system.name, 0, error=str(error))
                continue
            storages[row, system.name] = work
    for repetition in range(max(repeat, AT_LEAST)):
        order = list(systems)
        random.Random(f"{seed} mount {repetition}").shuffle(order)
        for system in order:
            for row in (empty, full):
                if (row, system.name) in storages and (row, system.name, repetition) not in done:
                    yield _mount_time(system, base, storages[row, system.name], bench, row, repetition)
    for work in storages.values():
        bench.work(work.name).rmdir()
    for repetition in range(repeat):
        for system in systems:
            if system.fuse and (walked, system.name, repetition) not in done:
                yield from _memory(system, base, bench, (start, walked), repetition)


def _in_mount(system: System, base: Path, work: Path, bench: Bench, script: str) -> None:
    mount = Mount(system, base, work, bench.mnt, writes=True)
    try:
        shell(script)(Place(mount.path, bench.tools))
    finally:
        mount.close()


def _mount_time(system: System, base: Path, work: Path, bench: Bench, row: str, repetition: int) -> Run:
    bench.volume.settle()
    mount = Mount(system, base, work, bench.mnt, writes=True)
    mount.close()
    return Run(row, system.name, repetition, seconds=mount.seconds)


def _memory(system: System, base: Path, bench: Bench, rows: tuple[str, str], repetition: int) -> Iterator[Run]:
    mount = Mount(system, base, bench.work(), bench.mnt, writes=True)
    try:
        for row in rows:
            if row == rows[1]:
                shell("ls -lR | wc -l")(Place(mount.path, bench.tools))
            memory, share = mount.memory()
            yield Run(row, system.name, repetition, memory=memory, share=share)
    finally:
        mount.close()
