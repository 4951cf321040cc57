"""The examples of every --help, run as they stand, where what they name exists.

Paths are moved into a directory of the test.  ``sudo`` is left out, and in the place of jq stands a check that it would
get JSON.  That options and arguments are right, tests/tools/test_cli_examples.py shows for all of them.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from minifo.migrations.meta.codec import META_NAME
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, in_child, minifo_program
from tests.tools.test_cli_examples import COMMANDS, example_lines

#: Examples that are not run, by their beginnings, with the reason.
NOT_RUN = {
    "minifo install-helpers": "changes /sbin: tests/tools/test_install_helpers.py",
    "minifo log --follow": "has no end",
    "minifo mount -f": "has no end",
    "minifo report /var/lib/usr-changes -o - | ssh": "needs another machine",
    "minifo run -- make": "needs something to install",
    "minifo mount --replace-dead": "needs a killed daemon: tests/system/test_systemd.py",
    "minifo run --keep /var/lib/try -- apt-get": "changes the machine's cache of packages",
    "minifo run --json --discard -- ./configure": "needs something to configure",
    "minifo run  ": "needs a terminal: tests/mount/test_run.py",
    "minifo run --discard -- rm -rf": "is about the machine's /usr",
    "minifo sql /mnt/usr  ": "needs a terminal: tests/mount/test_sql.py",
    "minifo watch /mnt/usr": "has no end",
    "minifo watch --json": "has no end",
    "minifo overlay /usr": "makes directories in the machine's /tmp and /mnt: tests/tools/test_overlay.py",
    "minifo overlay -s test": "makes directories in the machine's /tmp and /mnt: tests/tools/test_overlay.py",
    "minifo rebase /var/lib/etc-changes": "needs two versions of a base: tests/tools/test_rebase.py",
    "fuser": "not of minifo",
}

#: Exit codes that are not 0, by the beginnings of examples.
CODES = {"minifo cat --base /mnt/etc/hosts |": 1, "minifo diagnose --user": 1}

#: What an example needs to be as it says, by its beginning: commands of the shell.
BEFORE = {
    "minifo umount": "mountpoint -q /mnt/etc || minifo mount --base /etc --sto /var/lib/etc-changes /mnt/etc",
    "minifo mount -o base": "minifo umount /mnt/etc",
    "minifo mount -o remount": "minifo umount /mnt/etc; minifo mount --base /etc --sto /var/lib/etc-changes /mnt/etc",
    "minifo run --from": "minifo checkpoint create /var/lib/etc-changes night",
    "minifo trial start": "minifo confirm /mnt/etc",
    "minifo reset": "echo hosts > /etc/reset.keep; echo new > /mnt/etc/hosts; echo new > /mnt/etc/new",
    "minifo keep-list set": "echo hosts > /etc/reset.keep",
    "minifo trial abandon": "minifo confirm /mnt/etc; minifo trial start /mnt/etc",
    "minifo bundle": "rm -rf /var/lib/etc-device;"
    " minifo clone --at before-update /var/lib/etc-changes /var/lib/etc-device",
    "minifo bundle show": "minifo bundle create --force -o /tmp/update.bundle /mnt/etc before-update",
    "minifo bundle sign": "mkdir -p /etc/keys; [ -e /etc/keys/release ] || ssh-keygen -q -N '' -f /etc/keys/release",
    "minifo bundle apply --signers": "minifo bundle sign --key /etc/keys/release /tmp/update.bundle;"
    " (echo -n 'us '; cat /etc/keys/release.pub) > /etc/trusted",
    "minifo backup -o /tmp/etc-today": "rm -rf /tmp/etc-today",
    "minifo backup -o /tmp/etc-2": "rm -f /tmp/etc-2.tar.gz",
    "minifo backup -o /tmp/etc.tar.gz": "rm -f /tmp/etc.tar.gz",
    "minifo backup -o -": "rm -rf /var/lib/etc-copied",
    "minifo meta export": "rm -rf /tmp/overlay /var/lib/changes; cp -a /var/lib/new /var/lib/changes",
    "minifo import --base": "rm -rf /var/lib/*-new",
    "minifo import": "minifo export --force --format oci -o /tmp/usr-layer.tar.gz /var/lib/usr-changes;"
    " minifo export --format overlayfs -o /tmp/etc-upper /var/lib/etc-changes",
    "minifo meta restore": "[ -e /overlay/mini_fo-backup ] || minifo meta import /overlay --base /rom --in-place",
}

#: Verbs whose examples say nothing where all is well, with what a later example or the next line shows.
SILENT = re.compile(
    r"minifo (mount|umount|sync|digest --expect|log --since 2|report .* -o usr)|mkdir|.* > "
    r"|minifo keep-list (set|delete)"
    r"|minifo bundle sign"
    r"|minifo checkpoint (rename|pin|unpin|delete|diff)|minifo (rollback|undo|redo) --dry|minifo txn"
)

#: Verbs that ask, while all is mounted; those that go back, one after the other; those that change, while nothing is.
ASKING = ["cat", "completion", "diagnose", "diff", "digest", "doctor", "du", "export", "list", "log"]
ASKING += ["metrics", "report", "sql", "state", "status", "sync", "watch", "which"]
GOING_BACK = ["checkpoint create", "checkpoint list", "checkpoint diff", "clone", "rollback", "undo", "redo"]
GOING_BACK += [
    "backup",
    "restore",
    "bundle create",
    "bundle show",
    "bundle sign",
    "bundle apply",
    "checkpoint rename",
    "checkpoint pin",
]
GOING_BACK += ["revert", "trial start", "trial status", "confirm", "trial confirm", "trial abandon"]
GOING_BACK += ["keep-list set", "keep-list show", "keep-list list", "reset", "keep-list delete"]
GOING_BACK += ["txn", "vacuum", "checkpoint unpin", "checkpoint prune", "checkpoint delete"]
CHANGING = ["fsck", "rebase", "upgrade", "merge", "meta show", "meta import", "meta restore", "meta export", "migrate"]
CHANGING += ["import", "mount", "umount", "overlay", "run"]

_OURS = re.compile(r"(?<![\w./~-])/(?=(?:mnt|var/lib|var/log|usr|etc|srv|tmp|rom|overlay2?)\b)")
_PLAN = (
    '[defaults]\nbase = "/rom"\n[[storage]]\nsource = "/overlay2"\naction = "import"\ntarget = "/var/lib/migrated"\n'
)


class Place(NamedTuple):
    """A directory that stands for the root of the examples' machine."""

    root: Path

    def moved(self, text: str) -> str:
        """A text with its paths moved into the directory."""
        return _OURS.sub(f"{self.root}/", text)

    def run(self, line: str) -> subprocess.CompletedProcess[bytes]:
        """Run a line of the shell."""
        tools = 'jq() { python3 -m json.tool --json-lines; }; logger() { echo "$@"; }; set -o pipefail;'
        path = f"{Path(minifo_program()).parent}:{os.environ['PATH']}"
        words = ["bash", "-c", f"{tools} {self.moved(line)}"]
        env = {**os.environ, "PATH": path, "HOME": str(self.root)}
        return subprocess.run(
            words, cwd=self.root, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )

    def example(self, line: str) -> None:
        """Run an example after what it needs, and look at its exit code and at what it says."""
        for begin, command in BEFORE.items():
            if line.startswith(begin):
                self.run(command)
        done = self.run(line)
        code = next((code for begin, code in CODES.items() if line.startswith(begin)), 0)
        assert done.returncode == code, f"{line}: {done.returncode}: {done.stderr.decode()}{done.stdout.decode()}"
        # the output of minifo run is the command's
        said = done.stderr if line.startswith("minifo run") else done.stdout
        assert said or SILENT.match(line), f"{line}: no output"
        assert b"Traceback" not in done.stderr


def told(verb: str) -> list[str]:
    """All examples of a verb; the tests are root."""
    return [line.removeprefix("sudo ") for line in example_lines(COMMANDS[verb])]


def lines_of(verb: str) -> list[str]:
    """The examples of a verb that are run."""
    return [line for line in told(verb) if not any(f"{line}  ".startswith(begin) for begin in NOT_RUN)]


@pytest.fixture
def place(sandbox: MountSandbox) -> Place:
    """Directories and files of the examples; nothing is mounted yet."""
    root = sandbox.directory()
    files = {
        "usr": ("share/dict/words", "share/doc/readme", "bin/tool", "lib/a.conf", "lib/b.conf"),
        "etc": ("hosts", "shadow", "passwd", "attested"),
        "srv/www": ("index.html", "upload/file"),
        "rom": ("a", "gone", "etc/passwd"),
        "overlay": ("etc/new", META_NAME.decode(), f"etc/{META_NAME.decode()}"),
        "overlay2": ("new", META_NAME.decode()),
        "project": ("file",),
    }
    for directory, names in files.items():
        for name in names:
            path = root / directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text\n")
    for meta in (root / "overlay/etc", root / "overlay", root / "overlay2"):
        (meta / META_NAME.decode()).write_text("D gone\n")
    (root / "cleanup.sh").write_text("#!/bin/sh\nrm ~/project/file\n")
    (root / "cleanup.sh").chmod(0o755)
    (root / "plan.toml").write_text(Place(root).moved(_PLAN))
    made = "mnt/usr mnt/etc mnt/www mnt/stick tmp var/lib/new var/lib/www var/lib/reports etc/fish/completions"
    made += " usr/share/bash-completion/completions usr/local/share/zsh/site-functions"
    for name in made.split():
        (root / name).mkdir(parents=True)
    for name in ("usr", "etc", "www"):
        (root / f"var/lib/{name}-changes").mkdir()
    return Place(root)


@pytest.fixture
def overlays(sandbox: MountSandbox, place: Place) -> list[OverlayMount]:
    """The mounted overlays of the examples, with some changes."""
    root = place.root
    found = []
    for name, base in (("usr", "usr"), ("etc", "etc"), ("www", "srv/www")):
        overlay = sandbox.overlay(
            "journal=1000", base=root / base, sto=root / f"var/lib/{name}-changes", mnt=root / "mnt" / name
        )
        overlay.mount()
        found.append(overlay)
    usr, etc = root / "mnt/usr", root / "mnt/etc"
    for path in (usr / "share/dict/words", usr / "bin/tool", usr / "lib/a.conf", etc / "hosts"):
        path.write_text("changed\n")
    (usr / "local/new").write_text("new\n")
    shutil.rmtree(usr / "share/doc")
    (usr / "local").chmod(0o777)
    in_child((usr / "local/theirs").touch, uid=pwd.getpwnam("www-data").pw_uid)
    return found


def test_examples_that_ask(place: Place, overlays: list[OverlayMount]) -> None:
    """Each says something, and succeeds."""
    place.run("minifo checkpoint create /mnt/etc night")
    etc = place.run("minifo digest /mnt/usr").stdout
    (place.root / "etc/attested").write_bytes(etc)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # nearly all of the time goes to the start of python
        list(pool.map(place.example, [line for verb in ASKING for line in lines_of(verb)]))


def test_examples_that_go_back(place: Place, overlays: list[OverlayMount]) -> None:
    """One after the other, on mounted overlays."""
    for verb in GOING_BACK:
        for line in lines_of(verb):
            place.example(line)


def test_examples_that_change(sandbox: MountSandbox, place: Place, overlays: list[OverlayMount]) -> None:
    """One after the other, as a reader would try them."""
    for overlay in overlays:
        overlay.umount()
    sandbox.undo(lambda: place.run("for mnt in mnt/etc srv/www srv/mini_fo-*; do umount -l $mnt; done"))
    for verb in CHANGING:
        for line in lines_of(verb):
            place.example(line)


def test_every_example_is_run_or_has_a_reason() -> None:
    """Every verb is in one of the lists, and no list has what is in no help."""
    every = [line for verb in COMMANDS for line in told(verb)]
    assert sorted({*ASKING, *GOING_BACK, *CHANGING, "install-helpers"}) == sorted(COMMANDS)
    for begin in (*NOT_RUN, *CODES, *BEFORE):
        assert any(f"{line}  ".startswith(begin) for line in every), f"no such example: {begin}"
