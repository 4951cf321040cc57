"""The benchmark's paperwork: names that tell rows apart, medians, complaints, page and picture from made-up runs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.bench.bases import Sizes
from tests.bench.catalogue import GROUPS, workloads
from tests.bench.measure import tree_digest
from tests.bench.mounting import memory_rows, mount_rows
from tests.bench.picture import picture
from tests.bench.report import MARKER, show_bytes, show_time, tables, write_docs
from tests.bench.results import Document, Header, Log, Run, read
from tests.bench.schedule import affordable
from tests.bench.systems import KERNEL, OURS, PEER, PLAIN, SYSTEMS, UNIONFS

HEADER = Header("a made-up machine", scale=1.0, repeat=3, seed=4)
SIZES = Sizes.scaled(1)


def made_up() -> Document:
    """Three runs of everything: minifo in 2 seconds, fuse-overlayfs in 4, unionfs-fuse in 5, everybody else in 1."""
    took = {OURS: 2.0, PEER: 4.0, UNIONFS: 5.0}
    document = Document(HEADER)
    for system in (system.name for system in SYSTEMS):
        for repetition, more in enumerate((0.0, -0.5, 100.0)):
            for name in [*(workload.name for workload in workloads(SIZES)), *mount_rows(SIZES)]:
                seconds = took.get(system, 1.0) + more
                document.runs.append(
                    Run(name, system, repetition, seconds=seconds, durable=seconds + 1, written=4096, answer="7")
                )
            for name in memory_rows(SIZES):
                document.runs.append(Run(name, system, repetition, memory=40 << 20, share=45 << 20))
    return document


@pytest.mark.parametrize("scale", [1, 0.1, 0.001])
def test_names_tell_rows_apart(scale: float) -> None:
    """Results are found by name, so no two rows may share one; every row belongs to a group of the picture."""
    sizes = Sizes.scaled(scale)
    names = [*(workload.name for workload in workloads(sizes)), *mount_rows(sizes), *memory_rows(sizes)]
    assert len(names) == len(set(names))
    assert {workload.group for workload in workloads(sizes)} == set(GROUPS)


def test_table_shows_medians_and_ratios() -> None:
    """The median of three, then ours to the kernel's, to fuse-overlayfs' and to the better of the two with a daemon."""
    lines = tables(made_up()).splitlines()
    row = next(line for line in lines if line.startswith("| find, cold |"))
    assert row == "| find, cold | 1.00 s | 1.00 s | 1.00 s | 4.00 s | 5.00 s | 2.00 s | 1.00 s | 2.00 | 0.50 | 0.50 |"
    for workload in workloads(SIZES):
        assert sum(line.startswith(f"| {workload.name} |") for line in lines) == (3 if workload.writes else 1)
    assert sum(line.startswith("| memory") and "40.0 MiB" in line for line in lines) == 2


def test_another_tree_than_the_plain_one_is_wrong() -> None:
    """Also where most agree on it; without a plain directory the majority is right."""
    document = Document(HEADER, [Run("w", name, 0, seconds=1, digest="odd") for name in (KERNEL, PEER, OURS)])
    assert document.wrong("w") == {}
    document.runs.append(Run("w", PLAIN, 0, seconds=1, digest="even"))
    assert set(document.wrong("w")) == {KERNEL, PEER, OURS}
    assert len(document.complaints()) == 3


def test_what_is_wrong_or_failed_is_marked() -> None:
    """In its cell, and a wrong one at the name of the row."""
    document = made_up()
    document.runs.append(Run("find, cold", OURS, 3, answer="8", seconds=2))
    document.runs.append(Run("find, warm", OURS, 3, error="no such luck"))
    text = tables(document)
    assert "| find, cold **(wrong)** |" in text
    assert text.count("2.00 s **wrong**") == 1
    assert text.count("2.00 s **failed**") == 1
    assert document.complaints() == [
        f"find, cold: {OURS}: answer is 8, should be 7",
        f"find, warm: {OURS}: failed: no such luck",
    ]


def test_picture_has_a_row_for_each_workload() -> None:
    """It is well-formed, names every workload once, and nothing lies outside."""
    root = ET.fromstring(picture(made_up()))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for workload in workloads(SIZES):
        assert texts.count(workload.name) == 1
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 < float(circle.attrib["cx"]) < width
        assert 0 < float(circle.attrib["cy"]) < height


def test_page_keeps_its_head(tmp_path: Path) -> None:
    """What people wrote above the marker stays, what was measured before goes."""
    page = tmp_path / "performance.md"
    page.write_text(f"# By hand\n\n{MARKER}\nold figures\n")
    write_docs(made_up(), tmp_path)
    text = page.read_text()
    assert text.startswith(f"# By hand\n\n{MARKER}\n")
    assert "old figures" not in text
    assert "a made-up machine" in text
    assert (tmp_path / "performance.svg").read_text().startswith("<svg")


def test_log_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    """A half-written line is dropped, a failed run is run again, another machine or scale is refused."""
    path = tmp_path / "results.jsonl"
    log = Log(path, HEADER, resume=False)
    log.add(Run("w", OURS, 0, seconds=1.5))
    log.add(Run("w", OURS, 1, error="no such luck"))
    with open(path, "a") as file:
        file.write('{"workload": "w", "sys')
    log = Log(path, HEADER, resume=True)
    assert log.has("w", OURS, 0)
    assert not log.has("w", OURS, 1)
    assert read(path).runs == [Run("w", OURS, 0, seconds=1.5)]
    with pytest.raises(ValueError, match="another scale"):
        Log(path, Header(HEADER.machine, 0.5, 3, 4), resume=True)
    with pytest.raises(ValueError, match="another machine"):
        Log(path, Header("elsewhere", 1.0, 3, 4), resume=True)


def test_slow_workloads_are_repeated_less() -> None:
    """What costs most gives up first; with time enough nobody does, with none everybody."""
    costs = {"slow": 60.0, "middling": 20.0, "quick": 1.0}
    assert affordable(costs, 2, 200) == {"slow": 2, "middling": 2, "quick": 2}
    assert affordable(costs, 2, 110) == {"slow": 1, "middling": 2, "quick": 2}
    assert affordable(costs, 2, 30) == {"slow": 0, "middling": 1, "quick": 2}
    assert affordable(costs, 2, 0) == {"slow": 0, "middling": 0, "quick": 0}


def test_digest_sees_names_modes_and_sampled_content(tmp_path: Path) -> None:
    """Without sampling content does not matter; times never do."""
    file = tmp_path / "file"
    file.write_text("one")
    with_content, without = tree_digest(tmp_path, 1), tree_digest(tmp_path, 0)
    file.write_text("two")
    assert tree_digest(tmp_path, 1) != with_content
    assert tree_digest(tmp_path, 0) == without
    file.chmod(0o600)
    assert tree_digest(tmp_path, 0) != without


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.34, "12.3 s"), (0.5, "500 ms"), (0.00234, "2.34 ms"), (0.00005, "50.0 µs")]
)
def test_time_is_shown_in_three_digits(seconds: float, text: str) -> None:
    """Whatever its size."""
    assert show_time(seconds) == text


def test_bytes_are_shown_in_three_digits() -> None:
    """Small ones are exact."""
    assert [show_bytes(size) for size in (0, 512, 4096, 5 << 30)] == ["0", "512", "4.00 KiB", "5.00 GiB"]
