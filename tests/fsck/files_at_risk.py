"""Whose content a damage may cost: the files whose rows, or content objects, lie where bytes were changed."""

from __future__ import annotations

import os

from minifo.engine.fsck.raw_file import Memory
from minifo.engine.fsck.sqlite_pages import SqlitePages
from tests.fsck.sample_storage import SampleStorage

_PAGE = 4096
_FRAME = _PAGE + 24
_LOG = "minifo.db-wal"

# which column of a row says whose it is, where it is not the rowid
_OWNERS = {"created": 2, "renamed": 2, "inode": 0, "origin": 0, "modified": 0, "extent": 0, "small": 0}
_WITHOUT_ROWID = {"created", "renamed", "extent"}


class _Watched(SqlitePages):
    """Pages that say which of them were looked at."""

    def __init__(self, data: bytes, wal: bytes) -> None:
        super().__init__(Memory(data), Memory(wal))
        self.asked: set[int] = set()

    def page(self, number: int) -> bytes:
        self.asked.add(number)
        return super().page(number)


class FilesAtRisk:
    """Where the rows of a sound storage lie.

    Args:
        model: the storage; its files are read once.

    Attributes:
        owners: every path that has rows; the bytes of others are the base's, and safe there.
    """

    def __init__(self, model: SampleStorage) -> None:
        self._database, self._log = (_bytes(os.path.join(model.storage, name)) for name in ("minifo.db", _LOG))
        self._logged = {
            int.from_bytes(self._log[at : at + 4], "big") for at in range(32, len(self._log) - _FRAME + 1, _FRAME)
        }
        names: dict[int, list[str]] = {}
        for path, ino in model.inos.items():
            names.setdefault(ino, []).append(path)
        self._alone = _rows(_Watched(self._database, b""), names)
        self._rows = _rows(_Watched(self._database, self._log), names)
        self.owners = {path for _, paths in self._rows for path in paths}

    def of(self, storage: str) -> set[str]:
        """The paths whose rows lie on pages that differ in a damaged copy."""
        data = _bytes(os.path.join(storage, "minifo.db"))
        # a log that is damaged leaves the database as it was before
        is_whole = _bytes(os.path.join(storage, _LOG)) == self._log
        logged = self._logged if is_whole else set()
        rows = self._rows if is_whole else self._rows + self._alone
        changed = {
            at // _PAGE + 1
            for at in range(0, len(self._database), _PAGE)
            if data[at : at + _PAGE] != self._database[at : at + _PAGE]
        } - logged
        return {path for pages, paths in rows if pages & changed for path in paths}


def _rows(pages: _Watched, names: dict[int, list[str]]) -> list[tuple[frozenset[int], list[str]]]:
    """Every row: the pages it lies on, and the paths it belongs to."""
    found = []
    for table, root in pages.roots().items():
        if table not in _OWNERS:
            continue
        before = set(pages.reached)
        assert sum(1 for _ in pages.tree(root, index=table in _WITHOUT_ROWID))
        for number in pages.reached - before:
            pages.asked.clear()
            for record in pages.records(number):
                owner = record.rowid if record.rowid is not None else record.values[_OWNERS[table]]
                assert isinstance(owner, int)
                found.append((frozenset({number, *pages.asked}), names.get(owner, [])))
                pages.asked.clear()
    return found


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
