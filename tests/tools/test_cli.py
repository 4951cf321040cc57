"""The command line: one line per error, exit codes of mount(8), help that teaches, fast start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import click
import pytest

from minifo.engine import ROOT, Overlay, Process
from minifo.tools import _common, mount_helper, umount_helper
from minifo.tools import cli as cli_module
from minifo.tools.cli import COMMANDS, cli, main


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A directory with base, an empty sto and an empty mnt."""
    for name in ("base", "sto", "mnt"):
        (tmp_path / name).mkdir()
    return tmp_path


def only_line(capfd: pytest.CaptureFixture[str]) -> str:
    """What was said: exactly one line on stderr, nothing on stdout."""
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.rstrip("\n")


def test_help_names_every_command_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who knows nothing can go on from the help text; no arguments ask for it."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr().out == text
    for name in ("mount", "umount", "install-helpers"):
        assert f"  {name}" in text
        assert main([name, "-h"]) == 0
        assert "Examples:\n" in capsys.readouterr().out


def test_the_list_of_commands_says_what_each_says_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """The first sentence of its help, which fits into a line; and there is a file for each, and no other one."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, sentence in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(limit=1000) == sentence
        assert re.search(rf"^  {name} +{re.escape(sentence)}$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    files = {
        path.stem.removesuffix("_").replace("_", "-") for path in Path(cli_module.__file__).parent.glob("[a-z]*.py")
    }
    programs = {"mount-helper", "umount-helper", "fsck-helper", "mount-program"}
    assert set(COMMANDS) == files - programs - {"cli", "trust"}


def test_to_list_the_commands_imports_none() -> None:
    """Help is there at once."""
    program = "import sys; from minifo.tools.cli import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.splitlines()[-1].split() if name.startswith("minifo.tools.")}
    assert loaded == {"minifo.tools.cli", "minifo.tools._common"}


def test_mount_help_names_every_option_word(capsys: pytest.CaptureFixture[str]) -> None:
    """What -o takes is written where it is looked for."""
    main(["mount", "--help"])
    text = capsys.readouterr().out
    for word in ("base=", "lowerdir=", "sto=", "upperdir=", "commit=", "sync", "ro", "plain", "allow_other", "debug"):
        assert re.search(rf"\b{word}", text)


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """That is a question, not a mistake."""
    assert main(["meta", "--help"]) == 0
    text = capsys.readouterr().out
    assert main(["meta"]) == 0
    assert capsys.readouterr() == (text, "")


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """--version names the program and its version."""
    assert main(["--version"]) == 0
    assert re.fullmatch(r"minifo \d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], "No such command 'nosuch'; see 'minifo --help'"),
        (["staus"], "No such command 'staus'. Did you mean 'status' or 'state'?; see 'minifo --help'"),
        (["diff", "--jsn"], "No such option '--jsn'. Did you mean '--json'?; see 'minifo diff --help'"),
        (["mount"], "Missing argument 'MNT'; see 'minifo mount --help'"),
        (["umount", "-x", "/mnt"], "'-x'; see 'minifo umount --help'"),
        (["mount", "/mnt"], "base= and sto= are missing"),
        (["mount", "-o", "base=/,sto=/tmp,nosuch", "/mnt"], "unknown option 'nosuch'"),
        (["mount", "-o", "base=/", "--base", "/", "--sto", "/tmp", "/mnt"], "mean the same"),
    ],
)
def test_wrong_request_is_one_line_and_exit_code_1(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The line begins with the program's name and says what to do next."""
    assert main(arguments) == 1
    line = only_line(capfd)
    assert line.startswith("minifo: ")
    assert said in line


@pytest.mark.parametrize(
    ("base", "sto", "mnt", "said"),
    [
        ("nobase", "sto", "mnt", "base nobase does not exist"),
        ("base", "nosto", "mnt", "storage nosto does not exist; create it: mkdir -p nosto"),
        ("base", "sto", "nomnt", "mount point nomnt does not exist; create it: mkdir -p nomnt"),
        ("file", "sto", "mnt", "base file is not a directory"),
        ("base", "file", "mnt", "storage file is not a directory"),
        ("base", "sto", "file", "mount point file is not a directory"),
        ("loop", "sto", "mnt", "base loop cannot be used (Too many levels of symbolic links)"),
        ("n" * 300, "sto", "mnt", "(File name too long)"),
    ],
)
def test_mount_with_unusable_directory_is_one_line_and_exit_code_32(
    base: str,
    sto: str,
    mnt: str,
    said: str,
    places: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each directory is named with what is wrong with it, and storage stays as it was."""
    monkeypatch.chdir(places)
    (places / "file").touch()
    (places / "loop").symlink_to("loop")
    assert main(["mount", "--base", base, "--sto", sto, mnt]) == 32
    assert said in only_line(capfd)
    assert list((places / "sto").iterdir()) == []


def test_mount_with_paths_too_long_for_the_kernel_is_refused(places: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The mount table holds 4,095 bytes of source text; mount(2) would only say EINVAL."""
    deep = places
    while len(str(deep)) < 2100:
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)
    assert main(["mount", "--base", str(deep), "--sto", str(deep), str(places / "mnt")]) == 32
    assert "too long together" in only_line(capfd)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nosuch", "nosuch does not exist"),
        ("mnt", "mnt is not mounted"),
        ("/proc", "/proc is not a minifo mount but proc; findmnt -t fuse.minifo"),
        ("/proc/sys", "/proc/sys is not mounted"),
    ],
)
def test_umount_of_what_is_not_ours_is_refused(
    path: str, said: str, places: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing but a minifo mount, named exactly, is unmounted."""
    monkeypatch.chdir(places)
    assert main(["umount", path]) == 32
    assert said in only_line(capfd)
    assert os.path.ismount("/proc")


def test_names_of_any_bytes_print_as_one_line(places: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A newline or a byte that is not UTF-8 in a path cannot break the message."""
    name = os.fsdecode(b"a\nb\xff\x1b[31m\xc3\xa4")
    assert main(["mount", "--base", name, "--sto", "/tmp", str(places / "mnt")]) == 32
    assert only_line(capfd) == "minifo: base a\\nb\\xff\\x1b[31mä does not exist; check the path"


def test_printable_keeps_ordinary_text() -> None:
    """Only what would break a line is changed."""
    assert _common.printable("/a b/ä/日本") == "/a b/ä/日本"
    assert _common.printable("a\tb\u2028c\x7f") == "a\\tb\\u2028c\\x7f"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 1, "usage: "),
        (["ANY"], 1, "usage: "),
        (["ANY", "/mnt", "more"], 1, "usage: "),
        (["-k", "ANY", "/mnt"], 1, "usage: "),
        (["ANY", "/mnt"], 1, "base= and sto= are missing"),
        (["ANY", "/mnt", "-o", "base=/,sto=/tmp,nosuch=1"], 1, "unknown option 'nosuch'"),
        (["ANY", "/proc", "-o", "rw,remount,base=/,sto=/tmp"], 32, "is not a minifo mount"),
        (["ANY", "/proc", "-o", "rw,remount,nosuch"], 1, "unknown option 'nosuch'"),
        (["-o", "base=/nosuch,sto=/tmp", "ANY", "/mnt"], 32, "base /nosuch does not exist"),
        (["ANY", "/mnt", "-s", "-n", "-v", "-t", "mini_fo", "-o", "base=/nosuch,sto=/tmp,x=1"], 32, "base /nosuch"),
        (["ANY", "/mnt", "-f", "-o", "base=/nosuch,sto=/tmp"], 32, "base /nosuch"),
    ],
)
def test_mount_helper_errors(
    arguments: list[str],
    code: int,
    said: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The helper keeps mount(8)'s protocol and speaks under the name it was called by."""
    monkeypatch.setattr(sys, "argv", ["/sbin/mount.mini_fo"])
    assert mount_helper.main(arguments) == code
    err = capfd.readouterr().err
    last = err.rstrip("\n").rsplit("\n", 1)[-1]
    assert last.startswith("mount.mini_fo: ")
    assert said in last


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 1, "usage: "),
        (["/a", "/b"], 1, "usage: "),
        (["-k", "/a"], 1, "usage: "),
        (["/nosuch", "-l", "-f", "-n", "-r", "-t", "fuse.minifo"], 32, "/nosuch does not exist"),
        (["-v", "/proc"], 32, "/proc is not a minifo mount"),
        (["-N", "/nosuch", "/proc"], 2, "/nosuch: No such file or directory"),
    ],
)
def test_umount_helper_errors(
    arguments: list[str], code: int, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper keeps umount(8)'s protocol."""
    monkeypatch.setattr(sys, "argv", ["/sbin/umount.fuse.minifo"])
    assert umount_helper.main(arguments) == code
    line = only_line(capfd)
    assert line.startswith("umount.fuse.minifo: ")
    assert said in line


@pytest.mark.parametrize("helper", [mount_helper, umount_helper])
def test_helpers_help_and_version(helper: object, capsys: pytest.CaptureFixture[str]) -> None:
    """-h and -V answer on stdout."""
    assert helper in (mount_helper, umount_helper)
    run = mount_helper.main if helper is mount_helper else umount_helper.main
    assert run(["-h"]) == 0
    assert capsys.readouterr().out.startswith("usage: ")
    assert run(["-V"]) == 0
    assert "minifo 0" in capsys.readouterr().out


def test_commands_load_only_what_they_need() -> None:
    """No command loads the FUSE stack before the daemon is forked, and the helpers do without click."""
    script = """
        import sys
        from minifo.tools import mount_helper, umount_helper
        assert "click" not in sys.modules
        from minifo.tools import cli, install_helpers, mount, umount
        from minifo.tools.cli import main
        assert main(["mount", "--base", "/nosuch", "--sto", "/tmp", "/mnt"]) == 32
        assert main(["umount", "/proc"]) == 32
        loaded = {"trio", "pyfuse3", "subprocess", "difflib"} & set(sys.modules)
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True)


_CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]
_PROGRAMS = ["minifo", "minifo-fsck", "fsck.fuse.minifo", "mount.mini_fo", "umount.mini_fo"]


def _in_shell(name: str, *arguments: object, redirected: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a shell does that closes or redirects its streams."""
    program = Path(sys.executable).with_name(name)
    words = ["sh", "-c", f'exec "$0" "$@" {redirected}', str(program), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("closed", _CLOSED)
@pytest.mark.parametrize("name", _PROGRAMS)
def test_closed_streams_are_no_failure(name: str, closed: str) -> None:
    """A caller that has closed stdin, stdout or stderr (fsck -A does) gets the same exit code."""
    done = _in_shell(name, "-h", redirected=closed)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("usage" in done.stdout.lower()) == (">&- " not in f"{closed} ".replace("2>&-", ""))
    assert _in_shell(name, "-!", redirected=closed).returncode == (16 if "fsck" in name else 1)


@pytest.mark.parametrize("closed", _CLOSED)
def test_fsck_with_closed_streams(closed: str, places: Path) -> None:
    """The database is not written to as if it were a terminal, and damage is told by the exit code as ever."""
    overlay = Overlay.open(str(places / "base"), str(places / "sto"), clone=False)
    overlay.mkdir(ROOT, b"d", 0o755, Process())
    overlay.close()
    for mode in ("", "-n", "-p", "-y"):
        assert _in_shell("minifo-fsck", *filter(None, [mode]), places / "sto", redirected=closed).returncode == 0
    con = apsw.Connection(str(places / "sto" / "minifo.db"))
    con.execute("UPDATE inode SET nlink = 7 WHERE ino <> 1")
    con.close()
    for mode, code in (("", 4), ("-n", 4), ("-p", 1), ("-n", 0)):
        assert _in_shell("minifo-fsck", *filter(None, [mode]), places / "sto", redirected=closed).returncode == code


def test_commands_need_no_dev_null(fuse_required: None) -> None:
    """At boot, before anything is in /dev, a command with its streams open works, and the helpers do."""
    program = Path(sys.executable).parent
    for words in ("minifo --version", "minifo umount /nowhere", "umount.fuse.minifo /nowhere"):
        script = f"mount -t tmpfs none /dev && exec {program / words}"
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode in (0, 32)
        assert "Traceback" not in done.stderr


def test_output_that_cannot_be_written_is_told() -> None:
    """A full disk, and a reader that has gone: no traceback, and a code that is not success."""
    for name, code, no_reader in (("minifo", 2, 141), ("minifo-fsck", 8, 8), ("mount.mini_fo", 2, 2)):
        done = _in_shell(name, "-h", redirected=">/dev/full")
        assert (done.returncode, done.stderr.count("\n")) == (code, 1)
        assert "No space left on device" in done.stderr
        reader, writer = os.pipe()
        os.close(reader)
        program = Path(sys.executable).with_name(name)
        gone = subprocess.run([program, "-h"], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
        os.close(writer)
        assert (gone.returncode, gone.stderr) == (no_reader, b"")


def test_another_name_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It is the same command, and is not listed twice."""
    assert main(["mark-good", "--help"]) == 0
    assert "Confirm the present state" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "mark-good" not in capsys.readouterr().out
    assert main(["mark-goods"]) == 1
    assert "Did you mean 'mark-good'" in capsys.readouterr().err
