"""Names, paths and journals that somebody else wrote make no file outside the destination."""

from __future__ import annotations

import json
import os

import pytest

from tests.hostile.hostile_storage import DOORS, HostileStorage

# each of these, as the name of a set-id program, and what it led to before
NAMES = ["../outside/empty/made", "../../outside/empty/made", "..", ".", "", "a/b", "/outside", "a\0b"]
# doors behind which rows become files
MAKING = ["merge", "export", "rescue"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("door", MAKING)
def test_names(hostile: HostileStorage, door: str, name: str) -> None:
    """A name that leads elsewhere is refused with its row, or written inside under another one."""
    hostile.sql(
        f"UPDATE created SET name = x'{name.encode().hex()}' WHERE ino = {{/large}}",
        f"UPDATE inode SET mode = {0o104755} WHERE ino = {{/large}}",
    )
    code = hostile.go_through(door)
    assert code != 0 or door == "rescue"
    hostile.assert_unharmed()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("path", ["/../outside/secret", "../outside/secret", "/dir/../../outside/secret", "", "/x//y"])
def test_paths(hostile: HostileStorage, door: str, path: str) -> None:
    """A path in base terms stays in the base."""
    hostile.sql(f"UPDATE origin SET path = CAST('{path}' AS BLOB) WHERE path = CAST('/changed' AS BLOB)")
    hostile.go_through(door)
    hostile.assert_unharmed()


def test_a_rebase_of_a_path_deeper_than_python_recurses(hostile: HostileStorage) -> None:
    """A row may name thousands of directories."""
    deep = (b"/d" * 1900 + b"/x").hex()
    hostile.sql(f"UPDATE origin SET path = x'{deep}' WHERE path = CAST('/changed' AS BLOB)")
    hostile.run("minifo", "rebase", str(hostile.storage), "--base", str(hostile.base))  # sees that nothing is traced
    hostile.assert_unharmed()


@pytest.mark.parametrize("door", DOORS)
def test_a_symlink_that_holds_names(hostile: HostileStorage, door: str) -> None:
    """What rows put below a symlink of theirs is not made where that leads."""
    hostile.sql(
        f"UPDATE inode SET target = CAST('{hostile.outside}/empty' AS BLOB) WHERE ino = {{/link}}",
        "UPDATE created SET parent = {/link} WHERE ino = {/sub/file}",
        "UPDATE created SET parent = {/link} WHERE ino = {/large}",
    )
    hostile.go_through(door)
    hostile.assert_unharmed()


def test_a_listing_leaves_out_what_is_no_name(hostile: HostileStorage) -> None:
    """One name with a slash does not hide the others; minifo-fsck finds it."""
    hostile.sql("UPDATE created SET name = CAST('a/b' AS BLOB) WHERE ino = {/large}")
    assert hostile.mount("ro") == 0
    assert {"second", "small", "changed"} <= set(hostile.seen)
    assert b"E203" in hostile.run("minifo-fsck", "-n", hostile.storage).stdout


# -- journals


def _operation(kind: str, path: str, name: str = "", **more: object) -> dict[str, object]:
    return {"kind": kind, "path": path, "name": name, "source": "", "attributes": [], "xattrs": None} | more


OPERATIONS = {
    "place above": _operation("place", "/../outside/empty/made", "file-0"),
    "place through a symlink": _operation("place", "/via/made", "file-0"),
    "place a name above": _operation("place", "/made", "../../outside/secret"),
    "lift to above": _operation("lift", "/kept", "../../outside/empty/made"),
    "lift from above": _operation("lift", "/../outside/secret", "lifted-0"),
    "make above": _operation("mkdir", "/../outside/empty/made"),
    "make through a symlink": _operation("mkdir", "/via/made"),
    "overwrite above": _operation("overwrite", "/kept", "../../outside/secret", source="file-0"),
    "overwrite a link": _operation("overwrite", "/kept", "link-0", source="file-0"),
    "overwrite from above": _operation("overwrite", "/kept", "link-1", source="../../outside/secret"),
    "overwrite from a link": _operation("overwrite", "/kept", "link-1", source="link-0"),
    "dress above": _operation("dress", "/../outside/secret", attributes=[0o104755, 0, 0, 1, 1]),
    "dress through a symlink": _operation("dress", "/via/secret", attributes=[0o104755, 0, 0, 1, 1]),
    "dress a symlink": _operation("dress", "/to-secret", attributes=[0o104755, 7, 7, 1, 1], xattrs={"user.x": "1"}),
    "dress a name above": _operation("dress", "/kept", "../../outside/secret", attributes=[0o104755, 0, 0, 1, 1]),
    "no such kind": _operation("remove", "/kept"),
    "numbers out of range": _operation("dress", "/kept", attributes=[-1, -1, 1 << 70, 1, 1]),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_journal_of_a_merge(hostile: HostileStorage, what: str) -> None:
    """A journal is obeyed within the base only."""
    _forge(hostile, json.dumps({"base": str(hostile.base), "times": [1, 1], "operations": [OPERATIONS[what]]}))
    hostile.go_through("merge")
    assert not (hostile.base / "made").exists()
    hostile.assert_unharmed()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"base": 1, "times": [], "operations": 3}', "[" * 100_000])
def test_journal_that_is_none(hostile: HostileStorage, text: str) -> None:
    """It is said in a line."""
    _forge(hostile, text)
    done = hostile.run("minifo", "merge", hostile.storage, "--base", hostile.base, "--apply")
    assert done.returncode
    assert b"merge-journal is damaged" in done.stderr
    hostile.assert_unharmed()


@pytest.mark.parametrize("name", ["merge.db", "merge-journal", "merge-phase", "content", "checkpoints"])
def test_journal_that_is_a_link(hostile: HostileStorage, name: str) -> None:
    """Neither read nor deleted through."""
    _forge(hostile, json.dumps({"base": str(hostile.base), "times": [1, 1], "operations": []}))
    place = hostile.storage / name
    if place.is_dir():
        place.rename(hostile.top / "out")
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(hostile.outside / ("copy" if name in ("content", "checkpoints") else "secret"))
    assert hostile.go_through("merge") != 0
    hostile.assert_unharmed()


@pytest.mark.parametrize("name", [".minifo-import", ".minifo-restore", "mini_fo-backup"])
@pytest.mark.parametrize("door", ["restore", "import-in-place", "import", "mount"])
def test_work_of_an_import_that_is_a_link(hostile: HostileStorage, name: str, door: str) -> None:
    """What another run is said to have left is not entered, moved into or deleted through."""
    (hostile.storage / name).symlink_to(hostile.outside / "copy")
    if door == "import-in-place":
        assert hostile.run("minifo", "meta", "import", hostile.storage, "--base", hostile.base, "--in-place").returncode
    elif door == "import":
        hostile.out.mkdir()
        (hostile.out / "file").write_text("mini_fo's\n")
        assert hostile.run(
            "minifo", "meta", "import", hostile.out, "--base", hostile.base, "--sto", hostile.storage
        ).returncode
    else:
        assert hostile.go_through(door)
    hostile.assert_unharmed()


def test_staging_directory_that_is_a_link(hostile: HostileStorage) -> None:
    """The base's own staging directory is made anew, and not emptied through a link."""
    (hostile.base / ".minifo-merge").symlink_to(hostile.outside)
    hostile.go_through("merge")
    hostile.assert_unharmed()


def _forge(hostile: HostileStorage, journal: str) -> None:
    """Make the storage one whose merge was cut short."""
    stage = hostile.base / ".minifo-merge"
    stage.mkdir()
    (stage / "file-0").write_bytes(b"#!/bin/sh\n")
    (stage / "file-0").chmod(0o4755)
    (stage / "link-0").symlink_to(hostile.outside / "secret")
    (stage / "link-1").write_bytes(b"linked\n")
    (hostile.base / "via").symlink_to(hostile.outside / "empty")
    (hostile.base / "to-secret").symlink_to(hostile.outside / "secret")
    os.rename(hostile.storage / "minifo.db", hostile.storage / "merge.db")
    (hostile.storage / "merge-phase").write_text("lift")
    (hostile.storage / "merge-journal").write_text(journal)
