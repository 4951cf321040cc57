"""The META codec: golden bytes both ways, and what holds for all bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifo.migrations.meta import codec
from minifo.migrations.meta.codec import Record, Redirect, Whiteout

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parent / "goldens.json").read_text())

# What the kernel module read here depends on bytes left in memory behind the file's own.
STALE_MEMORY = {"unterminated-lucky", "two-pages-bad-neighbour"}


def golden(kind: str, *, harmless: bool = False) -> pytest.MarkDecorator:
    """One test for each golden of a kind; *harmless* leaves out those the kernel module crashed on or misread."""
    cases = [
        case for case in GOLDENS[kind] if not harmless or (case["status"] == "ok" and case["id"] not in STALE_MEMORY)
    ]
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


def record_of(parts: list[str]) -> Record:
    """A record of a golden file."""
    letter, *names = parts
    values = [bytes.fromhex(name) for name in names]
    return Whiteout(*values) if letter == "D" else Redirect(*values)


def test_name_of_the_file() -> None:
    """The name is part of the format."""
    assert codec.META_NAME.decode() == GOLDENS["meta_name"]


@golden("parse")
def test_golden_is_read_as_a_careful_importer_should(case: dict[str, Any]) -> None:
    """Records and their order agree with the goldens, for good and for damaged files."""
    meta = codec.parse(bytes.fromhex(case["hex"]))
    assert meta.records == [record_of(parts) for parts in case["importer_records"]]


@golden("parse", harmless=True)
def test_golden_gives_the_lists_of_the_kernel_module(case: dict[str, Any]) -> None:
    """Where the module read the file without harm, its two lists are ours."""
    hidden, moved = codec.kernel_lists(codec.parse(bytes.fromhex(case["hex"])).records)
    assert [record.name.hex() for record in hidden] == case["d"]
    assert [[record.old.hex(), record.new.hex()] for record in moved] == case["r"]


@golden("write")
def test_golden_is_written_byte_by_byte(case: dict[str, Any]) -> None:
    """Records become the bytes the module wrote, blanks and all, and so does the file's mode."""
    assert codec.emit(map(record_of, case["records"])).hex() == case["hex"]
    assert oct(codec.META_MODE)[2:].zfill(4) == case["mode"]


@golden("sync")
def test_golden_is_rewritten_byte_by_byte(case: dict[str, Any]) -> None:
    """Dropping an R line leaves what the module left."""
    before = codec.parse(bytes.fromhex(case["before"])).records
    after = codec.without_redirect(before, bytes.fromhex(case["remove_new_name"]))
    assert codec.emit(after).hex() == case["after"]


def test_rewriting_turns_the_order_round() -> None:
    """All D lines first, then all R lines, each newest first."""
    before = codec.parse(b"D a\nR /x y\nD b\nR /z w\n").records
    assert codec.emit(codec.without_redirect(before, b"y")) == b"D b\nD a\nR /z w\n"


@pytest.mark.parametrize(
    ("data", "records", "skipped"),
    [
        (b"Da\nDfoo\n", [Whiteout(b""), Whiteout(b"oo")], []),
        (b"D\nD a\n", [Whiteout(b"a")], [(1, b"D", "no name")]),
        (b"D a\nD", [Whiteout(b"a")], [(2, b"D", "the line is not terminated: its write was cut short")]),
        (b"R\nR \nR /a\n", [], [(1, b"R", "no name"), (2, b"R ", "no new name"), (3, b"R /a", "no new name")]),
        (b"D a\0b\nD c\n", [Whiteout(b"c")], [(1, b"D a\0b", "holds a NUL byte")]),
        (b"# x\n\n", [], [(1, b"# x", "neither D nor R"), (2, b"", "blank line")]),
        (b"D aD b\n", [Whiteout(b"aD b")], []),
        (b"R  b\nR a b\n", [Redirect(b"", b"b"), Redirect(b"a", b"b")], []),
        (b"D bmFtZQ==\n", [Whiteout(b"bmFtZQ==")], []),
        (b"D \xff\xfe\n", [Whiteout(b"\xff\xfe")], []),
    ],
)
def test_damage_is_reported_with_line_and_bytes(
    data: bytes, records: list[Record], skipped: list[tuple[int, bytes, str]]
) -> None:
    """What holds no record is named; the lines around it count."""
    meta = codec.parse(data)
    assert meta.records == records
    assert [tuple(line) for line in meta.skipped] == skipped


def test_line_with_blanks_has_several_readings() -> None:
    """The kernel's reading comes first; all others follow from left to right."""
    assert Redirect(b"/my", b"dir new dir").readings() == [
        Redirect(b"/my", b"dir new dir"),
        Redirect(b"/my dir", b"new dir"),
        Redirect(b"/my dir new", b"dir"),
    ]


names = st.binary(min_size=1, max_size=255).filter(lambda name: not set(name) & set(b"\0/\n"))
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
sayable = st.one_of(
    st.builds(Whiteout, names), st.builds(Redirect, paths.map(lambda path: path.replace(b" ", b"_")), names)
)


@given(st.lists(sayable))
def test_what_can_be_said_reads_back(records: list[Record]) -> None:
    """Records survive emit and parse, whatever bytes their names are made of."""
    assert [codec.misread(record) for record in records] == [None] * len(records)
    meta = codec.parse(codec.emit(records))
    assert meta.records == records
    assert meta.skipped == []
    assert meta.lines == list(range(1, len(records) + 1))


@given(st.one_of(st.builds(Whiteout, st.binary()), st.builds(Redirect, st.binary(), st.binary())))
def test_misread_names_exactly_what_does_not_read_back(record: Record) -> None:
    """A record is called misread if and only if parsing its bytes gives something else (or the module would hang)."""
    same = codec.parse(codec.emit([record])).records == [record]
    assert (codec.misread(record) is None) == same


@given(st.binary())
def test_no_file_is_too_damaged(data: bytes) -> None:
    """Every line is either a record or reported, and none is both."""
    meta = codec.parse(data)
    seen = sorted([*meta.lines, *(line.line for line in meta.skipped)])
    lines = data.split(b"\n")
    assert seen == list(range(1, len(lines) + bool(lines[-1])))


@given(st.lists(sayable), names)
def test_cutting_a_file_anywhere_loses_at_most_one_record(records: list[Record], name: bytes) -> None:
    """A power cut during an append leaves the records before it."""
    data = codec.emit(records)
    cut = data + codec.emit([Whiteout(name)])[:-1]
    meta = codec.parse(cut)
    assert meta.records == records
    assert [line.raw for line in meta.skipped] == [b"D " + name]
