"""META files of any bytes, over trees with the worst of names: every storage can be imported, exported and imported."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from minifo.engine import StateError
from minifo.migrations.meta.codec import META_NAME
from minifo.migrations.meta.exporter import export_storage
from minifo.migrations.meta.importer import import_storage
from minifo.migrations.meta.storage_tree import META_MAX
from tests.migrations import overlay_contents

REAL = [
    b"a",
    b"b",
    b"c d",
    b"e  f",
    b" g",
    b"h ",
    b"\xff",
    b"a\r",
    b"D a",
    b"n" * 255,
    b"d",
    b"dir new",
    b"my",
    b"my dir",
]
IMPOSSIBLE = [b".", b"..", b"", b"x/y", b"R /a b", b"n" * 256, META_NAME]
PATHS = [b"/", b"", b"a", b"//a", b"/a/", b"/./a", b"/../a", b"/none", b"/a/none"]
JUNK = [
    b"",
    b"#x",
    b"D",
    b"R",
    b"R ",
    b"Da",
    b"D\0",
    b"R /a",
    b"\0" * 9,
    b"D " + b"q" * 5000,
    b"R /" + b"p" * 4200 + b" z",
]


def meta(rng: random.Random, directories: list[bytes]) -> bytes:
    """The bytes of a META file: lines that fit the trees, lines that do not, and damage."""
    data = b""
    for _ in range(rng.randrange(7)):
        roll = rng.random()
        if roll < 0.45:
            line = b"D " + rng.choice(REAL + IMPOSSIBLE)
        elif roll < 0.9:
            old = rng.choice(directories) if directories and rng.random() < 0.8 else rng.choice(PATHS)
            line = b"R " + old + b" " + rng.choice(REAL + IMPOSSIBLE)
        else:
            line = rng.choice([*JUNK, rng.randbytes(6).replace(b"\n", b"")])
        data += line + rng.choices([b"\n", b"\r\n", b""], [18, 1, 1])[0]
    return data[:-1] if rng.random() < 0.1 else data


def plant(rng: random.Random, path: bytes, directories: list[bytes] | None, depth: int = 0) -> None:
    """A tree; a storage with META files that name *directories*, or a base."""
    os.mkdir(path)
    for name in rng.sample(REAL, rng.randrange(2, 7)):
        child = path + b"/" + name
        roll = rng.random()
        if roll < 0.5 and depth < 3:
            plant(rng, child, directories, depth + 1)
        elif roll < 0.6:
            os.symlink(b"a", child)
        else:
            Path(os.fsdecode(child)).write_bytes(rng.randbytes(rng.randrange(400)))
    if directories is not None and rng.random() < 0.8:
        Path(os.fsdecode(path + b"/" + META_NAME)).write_bytes(meta(rng, directories))
    elif directories is None and rng.random() < 0.05:
        Path(os.fsdecode(path + b"/" + META_NAME)).write_bytes(b"not mini_fo's")


@pytest.mark.parametrize("policy", ["kernel", "intent"])
@pytest.mark.parametrize("seed", range(8))
def test_any_storage_comes_over_and_back(memory_dir: Path, seed: int, policy: str) -> None:
    """The importer's comparison finds no difference, nor does ours after a way back and forth."""
    rng = random.Random(seed)
    base, top = os.fsencode(memory_dir / "base"), str(memory_dir)
    plant(rng, base, None)
    directories = [directory[len(base) :] for directory, _, _ in os.walk(base)][1:]
    plant(rng, os.fsencode(memory_dir / "sto"), directories)
    import_storage(f"{top}/sto", f"{top}/base", f"{top}/new", d_over_r=policy)  # type: ignore[arg-type]
    report = export_storage(f"{top}/new", f"{top}/base", f"{top}/out", lossy=True)
    import_storage(f"{top}/out", f"{top}/base", f"{top}/again")
    first, second = (
        overlay_contents.shown(memory_dir / "base", f"{top}/new"),
        overlay_contents.shown(memory_dir / "base", f"{top}/again"),
    )
    lost = {loss.place for loss in report.losses if loss.kind == "meta-name"}
    different = {path for path in first.keys() | second.keys() if first.get(path) != second.get(path)}
    assert different <= lost


@pytest.mark.parametrize("size", [META_MAX + 1, 1 << 42])
def test_too_large(tmp_path: Path, size: int) -> None:
    """A META file that would fill the memory is refused by name; without it the import goes on."""
    for name in ("base", "old/dir", "new"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "base/dir").mkdir()
    path = tmp_path / "old/dir" / os.fsdecode(META_NAME)
    with path.open("wb") as file:
        file.truncate(size)
    with pytest.raises(StateError, match=f"META file .*{os.fsdecode(META_NAME)} has {size} bytes"):
        import_storage(str(tmp_path / "old"), str(tmp_path / "base"), str(tmp_path / "new"))
    assert not (tmp_path / "new/minifo.db").exists()
    path.write_bytes(b"D gone\n")
    import_storage(str(tmp_path / "old"), str(tmp_path / "base"), str(tmp_path / "new"))
