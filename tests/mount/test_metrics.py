"""The counters of real mounts, read by Prometheus' own parser: they count what was done, by each way of a request."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from minifo.fusefront.control.textfile import MetricsFile
from minifo.tools._common import printable
from tests.mount.mount_sandbox import MountSandbox, minifo
from tests.shared.waiting import wait_until

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Values:
    """All samples by name and labels; a name has help and a type."""
    found: Values = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


@pytest.mark.parametrize("mode", ["hooked", "plain"])
def test_counts(sandbox: MountSandbox, mode: str) -> None:
    """Requests, errors, commits and bytes add up, and a histogram's buckets grow up to its count."""
    overlay = sandbox.overlay(*(["plain"] if mode == "plain" else []), "commit=600")
    overlay.mount()
    where = ("mountpoint", str(overlay.mnt))
    before = read(minifo("metrics", overlay.mnt).stdout)
    for number in range(20):
        (overlay.mnt / f"d{number}").mkdir()
    (overlay.mnt / "d0" / "file").write_bytes(b"x" * 100_000)
    with pytest.raises(OSError, match="not empty") as failed:
        (overlay.mnt / "d0").rmdir()
    assert failed.value.errno == errno.ENOTEMPTY
    minifo("sync", overlay.mnt)
    after = read(minifo("metrics", overlay.sto).stdout)

    def grew(name: str, **labels: str) -> float:
        key = name, frozenset({where, *labels.items()})
        return after[key] - before.get(key, 0)

    assert grew("minifo_request_duration_seconds_count", request="mkdir") == 20
    assert grew("minifo_request_duration_seconds_bucket", request="mkdir", le="+Inf") == 20
    assert 0 < grew("minifo_request_duration_seconds_sum", request="mkdir") < 60
    assert grew("minifo_errors_total", errno="ENOTEMPTY") == 1
    assert grew("minifo_content_written_bytes_total") == 100_000
    assert grew("minifo_operations_total") >= 22
    assert grew("minifo_row_changes_total") >= 22
    assert grew("minifo_commit_hold_seconds_count") >= 1
    assert after["minifo_changes_pending", frozenset({where})] == 0
    counts = [
        (float(dict(labels)["le"]), value)
        for (name, labels), value in after.items()
        if name == "minifo_request_duration_seconds_bucket" and ("request", "mkdir") in labels
    ]
    assert [value for _, value in sorted(counts)] == sorted(value for _, value in counts)


def test_replies_from_the_cache(sandbox: MountSandbox) -> None:
    """What the kernel asks again and again is counted, although Python does not see it."""
    overlay = sandbox.overlay("commit=600")
    overlay.mount()
    for number in range(50):
        (overlay.mnt / f"f{number}").touch()
        (overlay.mnt / ".").stat()
    found = read(minifo("metrics", overlay.mnt).stdout)
    cached = [value for (name, _), value in found.items() if name == "minifo_cached_replies_total"]
    assert sum(cached) >= 40


def test_all_mounts_and_hostile_names(sandbox: MountSandbox) -> None:
    """Samples of one name stand together; a mount point of any bytes is a label; a dead daemon is told."""
    strange = sandbox.directory() / os.fsdecode(b'a"\\\n\x1b[31m\xff')
    strange.mkdir()
    first, second = sandbox.overlay(mnt=strange), sandbox.overlay()
    for overlay in (first, second):
        overlay.mount()
    text = minifo("metrics").stdout
    assert "\x1b" not in text
    found = read(text)
    places = {dict(labels)["mountpoint"] for name, labels in found if name == "minifo_info"}
    assert {str(second.mnt), printable(str(strange))} <= places
    second.kill()
    done = minifo("metrics", check=False)
    assert done.returncode == 2
    assert str(second.sto) in done.stderr
    left = {dict(labels)["mountpoint"] for _, labels in read(done.stdout)}
    assert printable(str(strange)) in left
    assert str(second.mnt) not in left
    first.umount()


def written(path: Path) -> Values:
    """The samples of a file that the daemon writes, as soon as it is there."""
    wait_until(path.exists, f"{path} is there", 20)
    return read(path.read_text())


@pytest.mark.parametrize("option", ["rw", "plain", "ro"])
def test_file_for_node_exporter(sandbox: MountSandbox, option: str) -> None:
    """It is there as long as the mount, also of one that is only read, and where the path lies beneath the mount."""
    overlay = sandbox.overlay()
    overlay.mount()
    overlay.umount()
    place = overlay.mnt / "collector"
    place.mkdir()
    seen = os.open(place, os.O_PATH)
    overlay.mount(option, f"metrics={place}")
    found = Path(f"/proc/self/fd/{seen}")
    wait_until(lambda: os.listdir(found) and not os.listdir(found)[0].endswith(".new"), "a file is there", 20)
    (name,) = os.listdir(found)
    info = {dict(labels)["uuid"] for (metric, labels) in written(found / name) if metric == "minifo_info"}
    assert {f"minifo-{uuid}.prom" for uuid in info} == {name}
    assert stat.S_IMODE((found / name).stat().st_mode) == 0o644
    overlay.umount()
    assert os.listdir(place) == []
    os.close(seen)


def test_file_of_a_killed_daemon(sandbox: MountSandbox) -> None:
    """It stays, and the next mount takes its place."""
    place = sandbox.directory() / "own.prom"
    overlay = sandbox.overlay(f"metrics={place}")
    overlay.mount()
    written(place)
    overlay.kill()
    overlay.clear()
    left = place.stat().st_ino
    overlay.mount()
    wait_until(lambda: place.stat().st_ino != left, "it is written anew", 20)
    assert os.listdir(place.parent) == ["own.prom"]
    overlay.umount()
    assert not place.exists()


@pytest.mark.parametrize("path", ["missing", "missing/a.prom", "a.txt", ""])
def test_places_that_cannot_be_used(sandbox: MountSandbox, path: str) -> None:
    """The mount says so and works; only an empty option is refused."""
    overlay = sandbox.overlay()
    place = sandbox.directory()
    done = overlay.mount(f"metrics={place / path}" if path else "metrics=", check=False)
    if not path:
        assert done.returncode == 1
        assert "metrics= is empty; it must name a directory" in done.stderr
        return
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert f"metrics={place / path} cannot be written" in done.stderr
    (overlay.mnt / "file").touch()
    overlay.umount()
    assert os.listdir(place) == []


@pytest.mark.logs(r"cannot be written \(No space left on device\): it is tried again every 15 s")
def test_full_disk(sandbox: MountSandbox, caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, the last whole file stays, and the next attempt with room succeeds."""
    small = sandbox.file_system("tmpfs", options="size=64k")
    with closing(MetricsFile(str(small / "a.prom"), "uuid")) as found:
        found.write(["old"])
        for _ in range(3):
            found.write(["x" * 100_000])
        assert (small / "a.prom").read_text() == "old\n"
        assert os.listdir(small) == ["a.prom"]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        found.write(["new"])
        assert (small / "a.prom").read_text() == "new\n"
