"""One run: a mount of its own, the state the workload asks for, the clock, the bytes written, the resulting tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.bases import Sizes, make_archive, make_base, make_list, make_worker
from tests.bench.catalogue import LARGE, READS, Place, Workload, shell
from tests.bench.results import Run
from tests.bench.systems import Mount, System
from tests.bench.volume import Volume, drop_caches, run, touch_memory

_INDEX = ".git/index"  # holds inode numbers and times
_PROGRAMS = 'for i in find ls tar grep wc cat sort; do $i --version; done >/dev/null; "$TOOLS/worker" || true'


def tree_digest(top: Path, sample: int) -> str:
    """A checksum of names, types, modes, owners, sizes and link targets, and of the content of one file in *sample*."""
    total = hashlib.sha256()
    for directory, folders, files in os.walk(top):
        folders.sort()
        for name in sorted([*files, *folders]):
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, top)
            found = os.lstat(path)
            if relative.endswith(_INDEX):
                continue
            size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
            total.update(f"{relative} {found.st_mode:o} {found.st_uid} {found.st_gid} {size}\n".encode())
            if stat.S_ISLNK(found.st_mode):
                total.update(os.fsencode(os.readlink(path)))
            elif stat.S_ISREG(found.st_mode) and sample and zlib.crc32(relative.encode()) % sample == 0:
                with open(path, "rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


@dataclass
class Bench:
    """The places of a benchmark.

    Attributes:
        home: directory of everything that is not on the volume.
        volume: the disk of bases and storages.
        sizes: how large everything is.
        scale: names what is kept between runs.
    """

    home: Path
    volume: Volume
    sizes: Sizes
    scale: float

    @property
    def mnt(self) -> Path:
        """The mount point."""
        return self.home / "mnt"

    @property
    def tools(self) -> Path:
        """Directory of the worker, the archive and the list."""
        return self.home / f"tools-{self.scale:g}"

    def prepare_tools(self) -> None:
        """Make what lies beside the mounts."""
        self.tools.mkdir(parents=True, exist_ok=True)
        make_worker(self.tools / "worker")
        if not (self.tools / "many.tar").exists():
            make_archive(self.tools / "part.tar", self.sizes)
            (self.tools / "part.tar").rename(self.tools / "many.tar")
        make_list(self.tools / "list", self.base("large"))

    def base(self, kind: str) -> Path:
        """The base of that kind, made when first asked for."""
        top = self.volume.path / f"base-{kind}-{self.scale:g}"
        if not top.exists():
            part = top.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make_base(kind, part, self.sizes)
            part.rename(top)
        return top

    def work(self, name: str = "work") -> Path:
        """An empty directory for a storage."""
        path = self.volume.path / name
        run("rm", "-rf", path)
        path.mkdir()
        return path


def measure(bench: Bench, workload: Workload, system: System, repetition: int) -> Run:
    """Run a workload once; a failure is a result, too."""
    start = time.monotonic()
    try:
        found = _run(bench, workload, system, repetition)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        found = Run(workload.name, system.name, repetition, error=str(error) or type(error).__name__)
    return replace(found, wall=round(time.monotonic() - start, 3))


def _run(bench: Bench, workload: Workload, system: System, repetition: int) -> Run:
    volume = bench.volume
    mount = Mount(system, bench.base(workload.base), bench.work(), bench.mnt, writes=workload.writes)
    try:
        place = Place(mount.path, bench.tools)
        if workload.before:
            workload.before(place)
        mount.flush()
        volume.settle()
        if workload.cold:
            drop_caches()
            shell(_PROGRAMS)(place)
        if workload.group in (READS, LARGE):
            touch_memory(2 * bench.sizes.giant)
        written = volume.written()
        outcome = workload.timed(place)
        durable = None
        if workload.writes:
            start = time.perf_counter()
            mount.flush()
            run("sync", "-f", volume.path)
            durable = outcome.seconds + time.perf_counter() - start
        digest = tree_digest(mount.path, workload.sample) if repetition == 0 else ""
    finally:
        mount.close()
    volume.settle()
    return Run(
        workload.name,
        system.name,
        repetition,
        seconds=outcome.seconds,
        durable=durable,
        written=volume.written() - written,
        answer=outcome.answer,
        digest=digest,
    )
