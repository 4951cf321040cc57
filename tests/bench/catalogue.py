"""The list of workloads: what base each needs, what is done before the clock starts, and what is timed.

The clock stops when the last call has returned; what is durable by then is durable because the work asked for it
(``fsync`` in the name).  How long it takes until everything is durable is measured after that, for all systems in the
same way, and is a table of its own.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.bench.bases import GIT, GIT_ENVIRONMENT, KIBI, MEBI, Sizes, size_name

LIMIT = 600.0  # seconds a step may take

READS = "walks and reads"
NAMES = "small files and names"
LARGE = "large files"
JOBS = "whole jobs"
GROUPS = (READS, NAMES, LARGE, JOBS)


class Place(NamedTuple):
    """Where a step works: the mount, and the directory beside it with the worker, the archive and the list."""

    mnt: Path
    tools: Path


class Outcome(NamedTuple):
    """What a step took, and what it found: the same on every system."""

    seconds: float
    answer: str


Step = Callable[[Place], Outcome]


def shell(command: str) -> Step:
    """A step that runs a shell command in the mount; what it prints is the answer."""

    def step(place: Place) -> Outcome:
        environment = {**os.environ, **GIT_ENVIRONMENT, "TOOLS": str(place.tools)}
        start = time.perf_counter()
        done = subprocess.run(
            ["sh", "-ec", command], cwd=place.mnt, env=environment, capture_output=True, text=True, timeout=LIMIT,
            check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr.strip()[-500:]}")
        return Outcome(seconds, done.stdout.strip())

    return step


def worker(words: str, directory: str = ".") -> Step:
    """A step that runs the worker in a directory of the mount, by its own clock; ``{tools}`` is where the list lies."""

    def step(place: Place) -> Outcome:
        command = [str(place.tools / "worker"), *words.format(tools=place.tools).split()]
        done = subprocess.run(
            command, cwd=place.mnt / directory, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        if done.returncode:
            raise RuntimeError(f"worker {words}: {done.stderr.strip()}")
        seconds, answer = done.stdout.split()
        return Outcome(float(seconds), answer)

    return step


@dataclass(frozen=True)
class Workload:
    """One row of the tables.

    Attributes:
        name: as the tables show it.
        group: one of `GROUPS`.
        base: which base it needs.
        timed: what is timed.
        before: what is done first, untimed.
        cold: drop the caches before the timed step.
        writes: it changes the tree; then time until durable and bytes written are shown, too.
        sample: of how many files one has its content compared, besides all names and attributes; 0 is of none.
    """

    name: str
    group: str
    base: str
    timed: Step
    before: Step | None = None
    cold: bool = False
    writes: bool = True
    sample: int = 1


def _warm(name: str, group: str, base: str, timed: Step) -> Workload:
    """A read that is timed when the very same was just done."""
    return Workload(name, group, base, timed, timed, writes=False, sample=0)


def _cold(name: str, group: str, base: str, timed: Step) -> Workload:
    """A read that is timed when nothing is cached and nothing was looked at since the mount."""
    return Workload(name, group, base, timed, cold=True, writes=False, sample=0)


_FIND = shell("find . | wc -l")
_LS = shell("ls -lR . | wc -l")
_TAR = shell("tar cf - tree | wc -c")
_GREP = shell("grep -rc minifo-nowhere tree | wc -l")
_STATUS = shell(f"cd repo && {GIT} status --porcelain")
_READ = worker("read file")


def _reads(sizes: Sizes) -> list[Workload]:
    giant = size_name(sizes.giant)
    storm = worker("stat {tools}/list 3")
    return [
        _cold("find, cold", READS, "large", _FIND),
        _warm("find, warm", READS, "large", _FIND),
        _warm("ls -lR, warm", READS, "large", _LS),
        _warm("stat storm, warm", READS, "large", storm),
        _cold(f"list {sizes.names:,} names with attributes, cold", READS, "names", worker("list names 1")),
        _warm(f"list {sizes.names:,} names, warm", READS, "names", worker("list names 0")),
        _cold("tar to a pipe, cold", READS, "tree", _TAR),
        _warm("tar to a pipe, warm", READS, "tree", _TAR),
        _cold("grep -r, cold", READS, "tree", _GREP),
        _warm("grep -r, warm", READS, "tree", _GREP),
        _cold(f"read {giant}, cold", READS, str(sizes.giant), _READ),
        _warm(f"read {giant}, warm", READS, str(sizes.giant), _READ),
        _cold("random 4 KiB reads, cold", READS, str(sizes.file), worker(f"pread file {sizes.jumps}")),
    ]


def _names(sizes: Sizes) -> list[Workload]:
    many, large = f"{sizes.many:,}", f"{sizes.large:,}"
    make = shell(f'mkdir made && cd made && "$TOOLS/worker" create {sizes.many} >/dev/null')
    return [
        Workload(f"create {many} files of 13 bytes", NAMES, "empty", worker(f"create {sizes.many}", "made"),
                 shell("mkdir made")),
        Workload(f"rename {many} new files", NAMES, "empty", worker(f"rename {sizes.many}", "made"), make),
        Workload(f"unlink {many} new files", NAMES, "empty", worker(f"unlink {sizes.many}", "made"), make),
        Workload(f"untar {many} small files", NAMES, "empty", shell('tar xf "$TOOLS/many.tar"')),
        Workload(f"rm -rf {large} base entries, walked before", NAMES, "large", shell("rm -rf large"), _LS),
        Workload(f"mv {large}-entry base directory", NAMES, "large", shell("mv large moved"), shell("ls -l"),
                 sample=16),
        Workload("chmod -R, base tree, walked before", NAMES, "tree", shell("chmod -R g+w tree"), _LS),
    ]  # fmt: skip


def _large(sizes: Sizes) -> list[Workload]:
    file, giant = size_name(sizes.file), size_name(sizes.giant)
    fill = size_name(sizes.file // 4)
    pokes = [4 * KIBI, MEBI, max(MEBI, sizes.giant // 16), sizes.giant]
    return [
        Workload(f"write {giant}, fsync", LARGE, "empty", worker(f"write new {sizes.giant} {MEBI} 1")),
        Workload(f"write {fill} by 4 KiB, close", LARGE, "empty", worker(f"write new {sizes.file // 4} 4096 0")),
        Workload("random 4 KiB writes, fsync", LARGE, str(sizes.file), worker(f"pwrite file {sizes.jumps}"), _READ),
        Workload(f"mmap {file}, a byte in each 64 KiB, msync", LARGE, str(sizes.file), worker("map file 65536"), _READ),
        Workload(f"cp {file} inside the mount", LARGE, str(sizes.file), shell("cp file copy"), _READ),
        *(
            Workload(f"copy-up: 1 byte into {size_name(size)}, fsync", LARGE, str(size), worker("poke file"), _READ)
            for size in dict.fromkeys(pokes)
        ),
    ]


def _build(units: int) -> tuple[str, str]:
    """Shell commands that lay out a C project, and that build it."""
    numbers = " ".join(map(str, range(units)))
    source = '#include <stdio.h>\\nint f%d(int x){printf(\\"%%d\\",x);return x*%d;}\\n'
    write = f'mkdir build && cd build && for i in {numbers}; do printf "{source}" $i $i >f$i.c; done'
    build = f"cd build && for i in {numbers}; do cc -O1 -c f$i.c -o f$i.o; done && ar rcD libf.a *.o"
    return write, build


def _jobs(sizes: Sizes) -> list[Workload]:
    files = sizes.folders * 30
    write, build = _build(sizes.units)
    commit = f"mkdir new && cp -r tree/. new && cd new && {GIT} init -q && {GIT} add -A && {GIT} commit -qm one"
    return [
        Workload(f"git status, {files:,} files, warm", JOBS, "repository", _STATUS, _STATUS, sample=0),
        Workload(f"git checkout, {files // 2:,} files change", JOBS, "repository",
                 shell(f"cd repo && {GIT} checkout -q other"), _STATUS),
        Workload(f"git init, add, commit of {files:,} files", JOBS, "tree", shell(commit), _TAR),
        Workload(f"C build, {sizes.units} files", JOBS, "empty", shell(build), shell(write)),
    ]  # fmt: skip


def workloads(sizes: Sizes) -> list[Workload]:
    """All of them, in the order of the tables."""
    return [*_reads(sizes), *_names(sizes), *_large(sizes), *_jobs(sizes)]
