"""The file for node_exporter: whole at each moment, nobody else's file is written, and a failure is told once."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from pathlib import Path

import pytest

from minifo.fusefront.control.textfile import MetricsFile

UUID = "0b0e6f0c-6a1c-4f0e-9b0e-000000000001"


def names(directory: Path) -> set[str]:
    """What a directory holds."""
    return set(os.listdir(directory))


def test_named_by_the_overlay_or_by_the_user(tmp_path: Path) -> None:
    """In a directory the overlay names the file; all may read it; it goes at the end."""
    before = os.umask(0o077)
    for path, name in ((tmp_path, f"minifo-{UUID}.prom"), (tmp_path / "my.prom", "my.prom")):
        with closing(MetricsFile(str(path), UUID)) as found:
            assert found.directory == str(tmp_path)
            for text in ("one", "two"):
                found.write([text, "end"])
                assert (tmp_path / name).read_text() == f"{text}\nend\n"
                assert names(tmp_path) == {name}
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644
        assert names(tmp_path) == set()
    os.umask(before)


def test_an_open_file_stays_whole(tmp_path: Path) -> None:
    """Who has begun to read reads on in the old one."""
    with closing(MetricsFile(str(tmp_path / "a.prom"), UUID)) as found:
        found.write(["old"])
        with open(tmp_path / "a.prom") as file:
            found.write(["new"])
            assert file.read() == "old\n"


@pytest.mark.parametrize("name", ["a.prom", f".a.prom.{UUID}.new"])
@pytest.mark.parametrize("kind", ["symlink", "hard link", "left over"])
def test_what_was_planted_is_not_written(tmp_path: Path, name: str, kind: str) -> None:
    """A link in the place of the file, or of its successor, is replaced; where it leads stays as it was."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    place = tmp_path / "here"
    place.mkdir()
    if kind == "symlink":
        (place / name).symlink_to(victim)
    elif kind == "hard link":
        (place / name).hardlink_to(victim)
    else:
        (place / name).write_text("old")
    with closing(MetricsFile(str(place / "a.prom"), UUID)) as found:
        found.write(["new"])
        assert not (place / "a.prom").is_symlink()
        assert (place / "a.prom").read_text() == "new\n"
        assert names(place) == {"a.prom"}
    assert victim.read_text() == "kept"


def test_a_file_that_took_its_place_stays(tmp_path: Path) -> None:
    """At the end only our own file is removed."""
    with closing(MetricsFile(str(tmp_path / "a.prom"), UUID)) as found:
        found.write(["ours"])
        (tmp_path / "other").write_text("theirs")
        (tmp_path / "other").rename(tmp_path / "a.prom")
    assert (tmp_path / "a.prom").read_text() == "theirs"


@pytest.mark.parametrize("path", ["missing/a.prom", "missing", "a.txt", "file/a.prom"])
@pytest.mark.logs("cannot be written .*: no metrics are written until the next mount")
def test_places_that_cannot_be_used(tmp_path: Path, path: str) -> None:
    """They are told when the mount begins, and nothing is written."""
    (tmp_path / "file").touch()
    with closing(MetricsFile(str(tmp_path / path), UUID)) as found:
        assert found.directory is None
        found.write(["text"])
    assert names(tmp_path) == {"file"}
