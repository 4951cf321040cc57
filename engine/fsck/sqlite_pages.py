"""A reader for the pages of a damaged SQLite database that does not use SQLite (sqlite.org/fileformat2.html).

Each B-tree is walked from its root; a damaged page is counted and skipped.  If there were damaged pages, the pages that
no tree has reached are read as well, because their parent page may be a damaged one; fsck/rebuild.py recognizes the
table of such a row by the types of its values.  Of the write-ahead log all complete commits count.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .raw_file import PAGE as PAGE_SIZE
from .raw_file import Source

_HEADER = b"SQLite format 3\0"
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_TABLE_LEAF, _TABLE_INNER, _INDEX_LEAF, _INDEX_INNER = 13, 5, 10, 2
_DAMAGED = (IndexError, struct.error, ValueError, OverflowError)  # what decoding a damaged record raises

Value = int | bytes | str | float | None


class Record(NamedTuple):
    """One row: its values, and its rowid (None in an index and in a WITHOUT ROWID table, which is stored as one)."""

    rowid: int | None
    values: tuple[Value, ...]


class SqlitePages:
    """The pages of a database file and its write-ahead log.

    Args:
        data: the file minifo.db.
        wal: the file minifo.db-wal.  A page is read when it is asked for.

    Attributes:
        count: the number of pages.
        bad: numbers of the damaged pages found so far.
        reached: numbers of the pages that a walk over a tree has visited.
    """

    def __init__(self, data: Source, wal: Source) -> None:
        self._data = data
        self._wal = wal
        self._log = _log_pages(wal)
        self.count = max([-(-data.size // PAGE_SIZE), *self._log])
        self.bad: set[int] = set()
        self.reached: set[int] = set()

    def page(self, number: int) -> bytes:
        """Return a page by its number (from 1); a short or empty one beyond the end of the file."""
        at = self._log.get(number)
        return self._wal.read(at, PAGE_SIZE) if at is not None else self._data.read((number - 1) * PAGE_SIZE, PAGE_SIZE)

    def roots(self) -> dict[str, int]:
        """Return the root page of each table whose row in the schema can be read."""
        found: dict[str, int] = {}
        for record in self.tree(1, index=False):
            if len(record.values) == 5 and record.values[0] == "table" and isinstance(record.values[3], int):
                found[str(record.values[1])] = record.values[3]
        return found

    def tree(self, root: int, *, index: bool) -> Iterator[Record]:
        """Yield the rows of the B-tree with the root page *root*, as far as its pages can be read.

        Args:
            root: a page number.
            index: True for the tree of an index or a WITHOUT ROWID table.
        """
        inner, leaf = (_INDEX_INNER, _INDEX_LEAF) if index else (_TABLE_INNER, _TABLE_LEAF)
        waiting = [root]
        while waiting:
            number = waiting.pop()
            if number in self.reached or not 1 <= number <= self.count:
                self.bad.add(number)
                continue
            page = self.page(number)
            start = 100 if number == 1 else 0
            kind = page[start] if len(page) == PAGE_SIZE else None
            if kind not in (inner, leaf):
                self.bad.add(number)
                continue
            self.reached.add(number)
            if kind == inner:
                waiting += self._children(number, page, start)
            if kind != _TABLE_INNER:
                yield from self.records(number)

    def _children(self, number: int, page: bytes, start: int) -> list[int]:
        children = [int.from_bytes(page[start + 8 : start + 12], "big")]
        for at in self._cells(number, page, start):
            children.append(int.from_bytes(page[at : at + 4], "big"))  # noqa: PERF401
        return children

    def _cells(self, number: int, page: bytes, start: int) -> list[int]:
        """Return the offsets of the cells in a page, as its cell pointer array tells."""
        count = int.from_bytes(page[start + 3 : start + 5], "big")
        first = start + (12 if page[start] in (_TABLE_INNER, _INDEX_INNER) else 8)
        if first + 2 * count > PAGE_SIZE:
            self.bad.add(number)
            count = (PAGE_SIZE - first) // 2
        cells = [int.from_bytes(page[at : at + 2], "big") for at in range(first, first + 2 * count, 2)]
        good = [at for at in cells if first <= at < PAGE_SIZE - 3]
        if len(good) < len(cells):
            self.bad.add(number)
        return good

    def records(self, number: int) -> Iterator[Record]:
        """Yield the rows in one page that can be read."""
        page = self.page(number)
        start = 100 if number == 1 else 0
        kind = page[start] if len(page) == PAGE_SIZE else 0
        if kind not in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INNER):
            return
        for at in self._cells(number, page, start):
            try:
                yield self._record(page, at, kind)
            except _DAMAGED:
                self.bad.add(number)

    def unreached(self) -> Iterator[tuple[bool, Record]]:
        """Yield each row on a page that no tree has reached, after a bool: whether the page belongs to an index."""
        free = self._free_pages()
        for number in self._written_pages():
            if number > 1 and number not in self.reached and number not in free:
                page = self.page(number)
                if len(page) == PAGE_SIZE and page[0] in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INNER):
                    for record in self.records(number):
                        yield page[0] != _TABLE_LEAF, record

    def _written_pages(self) -> Iterator[int]:
        """Yield the numbers of the pages that are not holes of a sparse file."""
        yield from sorted(self._log)
        for start, end in self._data.data():
            yield from (n for n in range(start // PAGE_SIZE + 1, -(-end // PAGE_SIZE) + 1) if n not in self._log)

    def _free_pages(self) -> set[int]:
        """Return the pages on SQLite's freelist; their rows are deleted ones."""
        free: set[int] = set()
        head = self.page(1)
        trunk = int.from_bytes(head[32:36], "big") if head.startswith(_HEADER) else 0
        while 1 < trunk <= self.count and trunk not in free:
            free.add(trunk)
            page = self.page(trunk)
            count = min(int.from_bytes(page[4:8], "big"), PAGE_SIZE // 4 - 2)
            free.update(int.from_bytes(page[8 + 4 * i : 12 + 4 * i], "big") for i in range(count))
            trunk = int.from_bytes(page[:4], "big")
        return free

    def _record(self, page: bytes, at: int, kind: int) -> Record:
        """Decode the record in the cell at the offset *at*, with its overflow pages.

        Raises:
            IndexError, ValueError, struct.error, OverflowError: the record is damaged.
        """
        if kind == _INDEX_INNER:
            at += 4
        size, at = _varint(page, at)
        rowid: int | None = None
        largest = PAGE_SIZE - 35
        if kind == _TABLE_LEAF:
            rowid, at = _varint(page, at)
            rowid = rowid - (1 << 64) if rowid >= 1 << 63 else rowid
        else:
            largest = (PAGE_SIZE - 12) * 64 // 255 - 23
        if size > 1 << 20:
            raise ValueError(size)
        local = size
        if size > largest:
            least = (PAGE_SIZE - 12) * 32 // 255 - 23
            local = least + (size - least) % (PAGE_SIZE - 4)
            local = local if local <= largest else least
        payload = page[at : at + local]
        if len(payload) < local:
            raise ValueError(local)
        if local < size:
            payload += self._overflow(int.from_bytes(page[at + local : at + local + 4], "big"), size - local)
        return Record(rowid, _values(payload))

    def _overflow(self, number: int, size: int) -> bytes:
        parts = []
        while size > 0:
            page = self.page(number)
            if not 1 < number <= self.count or len(page) < PAGE_SIZE:
                raise ValueError(number)
            parts.append(page[4 : 4 + min(size, PAGE_SIZE - 4)])
            size -= len(parts[-1])
            number = int.from_bytes(page[:4], "big")
        return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(8):
        byte = data[at + count]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count + 1
    return value << 8 | data[at + 8], at + 9


_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


def _values(payload: bytes) -> tuple[Value, ...]:
    """Decode the values of a record from its payload.

    Raises:
        IndexError, ValueError, struct.error: the payload is damaged.
    """
    head, at = _varint(payload, 0)
    if head > len(payload):
        raise ValueError(head)
    body = head
    values: list[Value] = []
    while at < head:
        kind, at = _varint(payload, at)
        if kind in (10, 11):
            raise ValueError(kind)
        size = _SIZES[kind] if kind < 10 else (kind - 12) // 2
        raw = payload[body : body + size]
        if len(raw) < size:
            raise ValueError(size)
        body += size
        if kind == 0:
            values.append(None)
        elif kind < 7:
            values.append(int.from_bytes(raw, "big", signed=True))
        elif kind == 7:
            values.append(struct.unpack(">d", raw)[0])
        elif kind < 10:
            values.append(kind - 8)
        else:
            values.append(raw if kind % 2 == 0 else raw.decode())
    if body != len(payload):
        raise ValueError(body)
    return tuple(values)


def _log_pages(wal: Source) -> dict[int, int]:
    """Return the offset of each page in the write-ahead log by its number, up to the last complete commit."""
    head = wal.read(0, 32)
    if len(head) < 32 or int.from_bytes(head[:4], "big") not in _WAL_MAGIC:
        return {}
    order = ">" if head[3] & 1 else "<"
    if int.from_bytes(head[8:12], "big") != PAGE_SIZE:
        return {}
    sums = _sums(head[:24], order, (0, 0))
    if sums != struct.unpack(">II", head[24:32]):
        return {}
    committed: dict[int, int] = {}
    running: dict[int, int] = {}
    for at in range(32, wal.size - PAGE_SIZE - 23, PAGE_SIZE + 24):
        frame = wal.read(at, PAGE_SIZE + 24)
        number, commit = struct.unpack_from(">II", frame)
        if frame[8:16] != head[16:24]:
            break
        sums = _sums(frame[24:], order, _sums(frame[:8], order, sums))
        if sums != struct.unpack_from(">II", frame, 16):
            break
        running[number] = at + 24
        if commit:
            committed.update(running)
            running.clear()
    return committed


def _sums(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, two in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second
