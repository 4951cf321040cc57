"""Real work inside a mount: git, a C program, a virtual environment, SQLite, and moving and deleting large directories.

Afterwards each overlay is unmounted and mounted, and exactly the same tree must be there, the base untouched, and the
four lists must say what happened.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, differences, fingerprint, run, tree, watchdog

GIT = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "PATH": os.environ["PATH"],
}

MAKEFILE = """\
program: main.o part.o
\tcc -o $@ $^
%.o: %.c part.h
\tcc -c -o $@ $<
clean:
\trm -f *.o program
"""


@pytest.fixture(params=["hook", "plain"])
def overlay(sandbox: MountSandbox, request: pytest.FixtureRequest) -> Iterator[OverlayMount]:
    """An overlay whose base holds a part of this Python's library and a C project; checked after the test."""
    made = sandbox.overlay(*(["plain"] if request.param == "plain" else []))
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("json", "email", "asyncio", "unittest", "xml", "encodings", "multiprocessing"):
        shutil.copytree(library / name, made.base / "library" / name)
    project = made.base / "project"
    project.mkdir()
    (project / "main.c").write_text(
        '#include <stdio.h>\n#include "part.h"\nint main(void) { puts(part()); return 0; }\n'
    )
    (project / "part.c").write_text('#include "part.h"\nconst char *part(void) { return "from the base"; }\n')
    (project / "part.h").write_text("const char *part(void);\n")
    (project / "Makefile").write_text(MAKEFILE)
    before = fingerprint(made.base)
    made.mount()
    with watchdog(sandbox, 100):
        yield made
        seen = tree(made.mnt)
        numbers = {path: os.lstat(os.path.join(os.fsencode(made.mnt), path)).st_ino for path in seen}
        made.remount()
        assert differences(tree(made.mnt), seen) == []
        assert {path: os.lstat(os.path.join(os.fsencode(made.mnt), path)).st_ino for path in seen} == numbers
        made.umount()
        assert made.violations() == []
        assert fingerprint(made.base) == before


def git(where: Path, *words: str) -> str:
    """Call git in a directory."""
    return run("git", "-c", "init.defaultBranch=main", "-C", where, *words, env=GIT).stdout


def test_git(overlay: OverlayMount) -> None:
    """A repository is made of base files, committed to, cloned, branched, checked out and packed, and is sound."""
    library = overlay.mnt / "library"
    git(library, "init", "-q")
    git(library, "add", ".")
    git(library, "commit", "-qm", "first")
    git(library, "checkout", "-qb", "branch")
    git(library, "mv", "json", "renamed")
    git(library, "rm", "-rq", "xml")
    (library / "new.txt").write_text("new\n")
    (library / "email/message.py").write_text("# rewritten\n")
    git(library, "add", "-A")
    git(library, "commit", "-qm", "second")
    git(library, "checkout", "-q", "main")
    assert (library / "json/__init__.py").exists()
    assert not (library / "new.txt").exists()
    git(library, "checkout", "-q", "branch")
    git(overlay.mnt, "clone", "-q", "library", "clone")
    git(library, "gc", "-q")
    git(library, "fsck", "--strict")
    assert git(library, "status", "--porcelain") == ""
    assert git(overlay.mnt / "clone", "log", "--oneline", "--format=%s") == "second\nfirst\n"
    assert run("diff", "-r", "--exclude=.git", library, overlay.mnt / "clone").stdout == ""


def test_building_a_program(overlay: OverlayMount) -> None:
    """make builds, notices that a source changed and nothing else, and cleans."""
    project = overlay.mnt / "project"
    run("make", "-C", project)
    assert run(project / "program").stdout == "from the base\n"
    assert "up to date" in run("make", "-C", project).stdout
    (project / "part.c").write_text('#include "part.h"\nconst char *part(void) { return "changed"; }\n')
    said = run("make", "-C", project).stdout
    assert "part.o" in said
    assert "-o main.o" not in said
    assert run(project / "program").stdout == "changed\n"
    run("make", "-C", project, "clean")
    assert sorted(os.listdir(project)) == ["Makefile", "main.c", "part.c", "part.h"]


@pytest.mark.parametrize("overlay", ["hook"], indirect=True)
def test_virtual_environment(overlay: OverlayMount) -> None:
    """A virtual environment is made, a package installed in it from a wheel, used and removed."""
    wheel = overlay.mnt / "sample-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("sample/__init__.py", "def answer():\n    return 42\n")
        archive.writestr("sample-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
        archive.writestr("sample-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("sample-1.0.dist-info/RECORD", "")
    environment = overlay.mnt / "environment"
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin/python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    run(*pip, "install", "--no-index", wheel)
    assert run(python, "-c", "import sample; print(sample.answer())").stdout == "42\n"
    run(*pip, "uninstall", "-y", "sample")
    run(*pip, "install", "--no-index", wheel)
    assert run(python, "-c", "import sample, json; print(sample.answer())").stdout == "42\n"


def test_database(overlay: OverlayMount) -> None:
    """An SQLite database in WAL mode takes the writes of three processes and is sound, also after a new mount."""
    path = overlay.mnt / "data.db"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    connection.execute("CREATE TABLE t (who, number, filling)")
    connection.commit()
    children = []
    for who in range(3):
        child = os.fork()
        if child == 0:
            own = sqlite3.connect(path, timeout=60)
            for number in range(60):
                own.execute("INSERT INTO t VALUES (?, ?, ?)", (who, number, "x" * 500))
                own.commit()
            own.close()
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (180,)
    connection.execute("DELETE FROM t WHERE number % 2")
    connection.commit()
    connection.execute("VACUUM")
    connection.close()
    overlay.remount()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*), sum(number) FROM t").fetchone() == (90, 3 * 870)
    connection.close()


def test_large_directories(overlay: OverlayMount) -> None:
    """rm -rf and mv of large base directories leave a few rows that say just that, and the rest as it was."""
    mnt = overlay.mnt
    run("rm", "-rf", mnt / "library/asyncio")
    run("mv", mnt / "library/encodings", mnt / "codecs")
    run("mv", mnt / "library/xml", mnt / "library/json/xml")
    run("cp", "-a", mnt / "codecs", mnt / "copy")
    run("rm", "-rf", mnt / "copy")
    (mnt / "project/main.c").write_text("int main;\n")
    (mnt / "project/new").touch()
    old, new = (fingerprint(path) for path in (overlay.base / "library/encodings", mnt / "codecs"))
    assert {path: facts[-1] for path, facts in old.items()} == {path: facts[-1] for path, facts in new.items()}
    overlay.umount()
    number = os.lstat(overlay.base / "library").st_ino
    gone = {row[1] for row in overlay.rows("deleted") if row[0] == number}
    assert gone == {b"asyncio", b"encodings", b"xml"}
    assert {row[1] for row in overlay.rows("renamed")} == {b"codecs", b"xml"}
    assert {row[1] for row in overlay.rows("created")} == {b"new"}
    assert {row[0] for row in overlay.rows("modified")} == {os.lstat(overlay.base / "project/main.c").st_ino}
    overlay.mount()
