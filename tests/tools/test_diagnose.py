""" "Permission denied" although ls -l shows sufficient privileges: the cause is named, and what to do."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.tools.cli import main
from tests.shared.file_trees import NOBODY, acl

pytestmark = pytest.mark.usefixtures("fuse_required")


@pytest.fixture
def mnt() -> Iterator[Path]:
    """A mounted overlay, which every user may reach."""
    top = Path(tempfile.mkdtemp(prefix="minifo-diagnose-", dir="/var/tmp"))
    top.chmod(0o755)
    for name in ("base/open", "base/closed", "sto", "mnt"):
        (top / name).mkdir(parents=True)
    for name in ("open/file", "closed/file", "mine"):
        (top / "base" / name).write_text("x")
    (top / "base" / "closed").chmod(0o700)
    (top / "base" / "mine").chmod(0o600)
    yield top / "mnt"
    if os.path.ismount(top / "mnt"):
        assert main(["umount", str(top / "mnt")]) == 0
    shutil.rmtree(top)


def mount(mnt: Path, options: str = "debug") -> None:
    """Mount it."""
    arguments = ["--base", str(mnt.parent / "base"), "--sto", str(mnt.parent / "sto"), "-o", options, str(mnt)]
    assert main(["mount", *arguments]) == 0


def ask(capsys: pytest.CaptureFixture[str], path: Path, want: str = "r", user: str = "nobody") -> tuple[int, str]:
    """Exit code and output."""
    capsys.readouterr()
    code = main(["diagnose", "--user", user, "--for", want, str(path)])
    return code, capsys.readouterr().out


def test_allowed_access_is_no_problem(mnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so, and exits with 0."""
    mount(mnt)
    assert ask(capsys, mnt / "open" / "file") == (0, f"{mnt}/open/file may be read\n")


def test_json_says_the_same(mnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object, with stable keys."""
    mount(mnt)
    capsys.readouterr()
    for path, allowed in ((mnt / "open" / "file", True), (mnt / "closed" / "file", False)):
        assert main(["diagnose", "--json", "--user", "nobody", str(path)]) == (0 if allowed else 1)
        found = json.loads(capsys.readouterr().out)
        assert found.keys() == {"path", "allowed", "cause", "remedy"}
        assert found["allowed"] is allowed
        assert (found["cause"] is None) is allowed


def test_directory_above_is_closed(mnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file's own mode looks fine."""
    mount(mnt)
    code, out = ask(capsys, mnt / "closed" / "file")
    assert code == 1
    assert f"cause:  the directory {mnt}/closed may not be entered by nobody (owner root, mode drwx------)" in out
    assert f"remedy: chmod or chown {mnt}/closed" in out


def test_mount_of_one_user_alone(mnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FUSE mounts without allow_other."""
    mount(mnt, "noallow_other")
    code, out = ask(capsys, mnt / "open" / "file")
    assert code == 1
    assert f"cause:  only the user with uid 0, not even root, may access the mount at {mnt}\n" in out
    assert "-o allow_other" in out


@pytest.mark.parametrize(("options", "want"), [("ro", "w"), ("noexec", "x")])
def test_mount_options(mnt: Path, capsys: pytest.CaptureFixture[str], options: str, want: str) -> None:
    """What the mode allows and the mount does not."""
    mount(mnt)
    assert main(["umount", str(mnt)]) == 0
    mount(mnt, options)
    code, out = ask(capsys, mnt / "open" / "file", want, "root")
    assert code == 1
    assert f"cause:  {mnt} is mounted with the option {options}\n" in out


def test_acl(mnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mode bits say yes to everybody, one entry says no to one."""
    target = mnt.parent / "base" / "open" / "file"
    nobody = pwd.getpwnam("nobody").pw_uid
    entries = [(1, 6, NOBODY), (2, 0, nobody), (4, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 4, NOBODY)]
    os.setxattr(target, "system.posix_acl_access", acl(*entries))
    mount(mnt)
    code, out = ask(capsys, mnt / "open" / "file")
    assert code == 1
    assert out.startswith(f"cause:  an ACL of {mnt}/open/file refuses nobody\n")


def test_own_mode_and_missing_file(mnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plain cases."""
    mount(mnt)
    assert "may not be read by nobody (owner root, mode -rw-------)" in ask(capsys, mnt / "mine")[1]
    assert "does not exist" in ask(capsys, mnt / "nothing")[1]


def test_unknown_user_is_one_line(mnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback."""
    assert ask(capsys, mnt, user="no-such-user")[0] == 1
