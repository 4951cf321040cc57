"""Overlays under a real systemd: lines of fstab and our units from boot to shutdown, and what goes wrong there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.debian_root import ROOT, DebianRoot
from tests.system.init_container import InitContainer

_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "procps"),
    *("fuse3", "libfuse3-dev", "gcc", "libc6-dev", "pkg-config", "python3-dev", "python3-venv"),
)
#: Where the storages are: a file system of its own, as far as systemd can tell.
_OVERLAY = "/var/disk /overlay none bind 0 0\n"
_UNITS = "/etc/systemd/system"
#: What a test may leave in the root file system.  Without that directory the journal is in memory, one for each boot:
#: the kernel, and so the number by which journalctl tells boots apart, is the same all the time.
_LEFT = (
    "/var/log/journal /var/disk /overlay /etc/minifo /mnt/* "
    f"{_UNITS}/minifo* {_UNITS}/*/minifo* {_UNITS}/check.* {_UNITS}/*/check.*"
)
_WHAT_FAILED = "systemctl --failed --no-pager; journalctl -b -p warning --no-pager"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> DebianRoot:
    root = DebianRoot.make("trixie", tmp_path_factory.mktemp("debian") / "root", _PACKAGES)
    root.take_checkout()
    commands = re.search(r"## Install it\n.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert commands is not None
    root.must("sh", "-ec", f"cd /src/minifo\n{commands[1]}\nminifo install-helpers --systemd")
    return root


@pytest.fixture
def system(debian: DebianRoot) -> Iterator[InitContainer]:
    """The Debian, off, with no overlay and nothing left of an earlier test."""
    debian.must("sh", "-ec", f"rm -rf {_LEFT}; mkdir -p /var/disk /overlay /etc/minifo")
    (debian.path / "etc/fstab").write_text("")
    with InitContainer(debian) as container:
        yield container


def place(system: InitContainer, path: str, text: str = "") -> Path:
    """The path of a file in the root file system, which is written."""
    found = system.root.path / path.lstrip("/")
    found.parent.mkdir(parents=True, exist_ok=True)
    found.write_text(text)
    return found


def directories(system: InitContainer, *paths: str) -> None:
    for path in paths:
        (system.root.path / path.lstrip("/")).mkdir(parents=True, exist_ok=True)


def in_order(text: str, *words: str) -> bool:
    """Whether *words* occur in this order."""
    return re.search(".*".join(map(re.escape, words)), text, re.S) is not None


def test_fstab(system: InitContainer) -> None:
    """Lines of fstab: mounted at boot, unmounted at shutdown before their storage; nothing has to be replayed."""
    place(
        system,
        "/etc/fstab",
        _OVERLAY
        + "minifo /mnt/etc fuse.minifo base=/etc,sto=/overlay/etc,nofail,x-systemd.requires-mounts-for=/overlay 0 0\n"
        "none /mnt/old mini_fo base=/usr/share,sto=/overlay/old,x-systemd.requires-mounts-for=/overlay 0 0\n"
        "minifo /mnt/net minifo base=/etc,sto=/overlay/net,_netdev,x-systemd.requires-mounts-for=/overlay 0 0\n"
        "minifo /mnt/auto minifo base=/etc,sto=/overlay/auto,noauto,x-systemd.automount,x-systemd.idle-timeout=1s,"
        "x-systemd.requires-mounts-for=/overlay 0 0\n"
        "minifo /mnt/user minifo base=/etc,sto=/overlay/user,noauto,user 0 0\n",
    )
    names = ("etc", "old", "net", "auto", "user")
    directories(system, *(f"/var/disk/{name}" for name in names), *(f"/mnt/{name}" for name in names))
    assert system.boot().strip() == "running", system.run(_WHAT_FAILED).stdout
    group = system.must("cat /proc/$(cat /overlay/etc/lock)/cgroup")
    assert group.endswith("/mnt-etc.mount\n")
    system.must("mount /mnt/user")
    for name in names:
        system.must(f"echo {name} > /mnt/{name}/new")
        assert f" /mnt/{name} fuse.minifo " in system.must("cat /proc/mounts")
    system.must("for i in $(seq 100); do grep -q ' /mnt/auto fuse' /proc/mounts || exit 0; sleep 0.1; done; exit 1")
    system.must("cat /mnt/auto/new")  # mounted again
    system.power_off()
    print(system.console)
    assert "FAILED" not in system.console
    for name in ("etc", "old", "net", "auto"):
        assert in_order(system.console, f"Unmounted mnt-{name}.mount", "Unmounted overlay.mount"), name
    assert system.boot().strip() == "running", system.run(_WHAT_FAILED).stdout
    system.must("mount /mnt/user")
    for name in names:
        assert system.must(f"cat /mnt/{name}/new") == f"{name}\n"
    assert "replayed" not in system.must("journalctl -b --no-pager")
    system.power_off()
    for name in names:
        system.root.must("minifo-fsck", f"/var/disk/{name}")


def configure(system: InitContainer, name: str, **words: str) -> None:
    """Write the file of ``minifo@NAME.service``, and make the directories that it names."""
    words = {"MOUNTPOINT": f"/mnt/{name}", "BASE": "/etc", "STORAGE": f"/overlay/{name}", "OPTIONS": ""} | words
    place(system, f"/etc/minifo/{name}.conf", "".join(f"{key}={value}\n" for key, value in words.items()))
    directories(system, f"/mnt/{name}", f"/var/disk/{name}")
    place(system, "/etc/fstab", _OVERLAY)


def main_pid(system: InitContainer, unit: str) -> int:
    pid = int(system.must(f"systemctl show -P MainPID {unit}"))
    assert pid > 1, system.run(f"systemctl status {unit}").stdout
    return pid


def await_state(system: InitContainer, unit: str, state: str, more: str = "true") -> None:
    """Wait until ``systemctl is-active`` says *state*, and the command *more* succeeds."""
    holds = f'[ "$(systemctl is-active {unit})" = {state} ] && {more}'
    ask = f"for i in $(seq 300); do {holds} && exit 0; sleep 0.1; done; exit 1"
    done = system.run(ask)
    assert done.returncode == 0, system.run(f"systemctl status {unit}; journalctl -b -u {unit} --no-pager").stdout


def test_service(system: InitContainer) -> None:
    """A service mounts for everybody, is confined, survives a kill -9 and a hang, and loses nothing at shutdown."""
    configure(system, "etc", OPTIONS="commit=5")
    system.boot()
    system.must("systemctl enable --now minifo@etc.service")
    system.must("echo one > /mnt/etc/new")
    told = system.must("systemd-analyze security --no-pager minifo@etc.service")
    print(told.splitlines()[-1])
    exposure = re.search(r"exposure level for minifo@etc.service: ([\d.]+)", told)
    assert exposure is not None
    assert float(exposure[1]) <= 4.2
    status = system.must("systemctl show -P StatusText minifo@etc.service")
    assert status == "/mnt/etc is mounted (base /etc, storage /overlay/etc)\n"
    log = system.must("journalctl -b -u minifo@etc.service --no-pager")
    assert "keeps privileges" not in log
    assert "plain mode" not in log

    killed = main_pid(system, "minifo@etc.service")
    system.must(f"kill -9 {killed}")
    await_state(system, "minifo@etc.service", "active", "grep -q one /mnt/etc/new")
    assert main_pid(system, "minifo@etc.service") != killed
    # the event that stands in the journal, with its fields
    event = "MESSAGE_ID=7ab308bc4c7a4592975f8c6044301525"
    fields = system.must(f"journalctl -b {event} MINIFO_MOUNT=/mnt/etc -o export --no-pager")
    print(fields)
    for field in (
        "MINIFO_STORAGE=/overlay/etc",
        "PRIORITY=4",
        "SYSLOG_IDENTIFIER=minifo",
        "_SYSTEMD_UNIT=minifo@etc.service",
    ):
        assert f"\n{field}\n" in fields
    text = re.findall(r"^MESSAGE=(.*replayed.*)$", system.must("journalctl -b -o export --no-pager"), re.M)
    assert len(text) == 1, text  # and stands there once

    place(system, f"{_UNITS}/minifo@etc.service.d/test.conf", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n")
    system.must("systemctl daemon-reload; systemctl restart minifo@etc.service")
    hung = main_pid(system, "minifo@etc.service")
    system.must("echo two > /mnt/etc/new")
    system.must("sleep 4; systemctl is-active minifo@etc.service")
    assert main_pid(system, "minifo@etc.service") == hung
    system.must(f"kill -STOP {hung}")
    again = f'[ "$(systemctl show -P MainPID minifo@etc)" != {hung} ] && grep -q two /mnt/etc/new'
    await_state(system, "minifo@etc.service", "active", again)
    assert "Watchdog timeout" in system.must("journalctl -b -u minifo@etc.service --no-pager")

    system.must("echo three > /mnt/etc/new")
    system.power_off()
    assert in_order(system.console, "Stopped minifo@etc.service", "Unmounted overlay.mount")
    assert system.boot().strip() == "running", system.run(_WHAT_FAILED).stdout
    assert system.must("cat /mnt/etc/new") == "three\n"
    assert "replayed" not in system.must("journalctl -b --no-pager")
    system.power_off()


def test_service_stopped_under_a_program(system: InitContainer) -> None:
    """``systemctl stop`` while files are open: they give errors, the mount is gone, what was written is there."""
    configure(system, "etc", OPTIONS="commit=3600")
    system.boot()
    system.must("systemctl start minifo@etc.service")
    program = "cd /mnt/etc; exec >held; while :; do /bin/echo line; sleep 0.05; done"
    system.must(f"systemd-run --unit=user-of-it sh -ec '{program}'")
    system.must("until [ -s /mnt/etc/held ]; do sleep 0.1; done")
    system.must("systemctl stop minifo@etc.service")
    assert system.run("grep fuse.minifo /proc/mounts").stdout == ""
    assert system.must("systemctl show -P Result minifo@etc.service") == "success\n"
    await_state(system, "user-of-it.service", "failed")
    system.must("minifo-fsck /overlay/etc; systemctl start minifo@etc.service")
    assert system.must("head -1 /mnt/etc/held") == "line\n"
    system.power_off()


def test_two_services_of_one_storage(system: InitContainer) -> None:
    """The second one fails with the reason and gives up after a few times; the first one goes on."""
    configure(system, "first", STORAGE="/overlay/first")
    configure(system, "second", STORAGE="/overlay/first")
    configure(system, "wrong", OPTIONS="comit=5")
    system.boot()
    system.must("systemctl start minifo@first.service; echo one > /mnt/first/new")
    assert system.run("systemctl start minifo@second.service").returncode == 1
    await_state(system, "minifo@second.service", "failed")
    log = system.must("journalctl -b -u minifo@second.service --no-pager")
    print(log)
    assert "Start request repeated too quickly" in log
    assert "/overlay/first" in log
    assert system.must("cat /mnt/first/new") == "one\n"
    # a wrong word is told once
    assert system.run("systemctl start minifo@wrong.service").returncode == 1
    assert system.must("systemctl show -P NRestarts minifo@wrong.service") == "0\n"
    assert "did you mean 'commit'?" in system.must("journalctl -b -u minifo@wrong.service --no-pager")
    system.power_off()


def test_trial_boot(system: InitContainer) -> None:
    """A boot that passes its check is confirmed; one that does not is taken back at the next one, by itself."""
    configure(system, "etc", OPTIONS="trial=1")
    place(
        system,
        f"{_UNITS}/check.service",
        "[Unit]\nAfter=minifo@etc.service\nBefore=boot-complete.target\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sh -c '! grep broken /mnt/etc/state'\n"
        "[Install]\nRequiredBy=boot-complete.target\n",
    )
    confirmed = "minifo-confirm@mnt-etc.service"
    system.boot()
    system.must("systemctl enable minifo@etc.service check.service")
    system.must("systemctl enable minifo-confirm@$(systemd-escape --path /mnt/etc).service")
    system.power_off()
    assert system.boot().strip() == "running", system.run(_WHAT_FAILED).stdout
    assert system.must(f"systemctl is-active {confirmed}") == "active\n"
    system.must(f"echo works > /mnt/etc/state; systemctl restart {confirmed}; echo broken > /mnt/etc/state")
    system.power_off()

    assert system.boot().strip() == "degraded"
    assert system.must("cat /mnt/etc/state") == "broken\n"
    failed = system.must(f"journalctl -b --no-pager -u {confirmed}")
    print(failed)
    assert "Dependency failed for" in failed
    system.power_cut()  # it does not even shut down

    assert system.boot().strip() == "running", system.run(_WHAT_FAILED).stdout
    assert system.must("cat /mnt/etc/state") == "works\n"
    print(system.must(f"minifo trial status --json /mnt/etc; journalctl -b --no-pager -u minifo@etc -u {confirmed}"))
    assert system.must(f"systemctl is-active {confirmed}") == "active\n"
    system.power_off()


def test_service_of_a_user(system: InitContainer) -> None:
    """The unit in a user's manager: mounted through fusermount3, and again after a kill -9."""
    system.root.must("sh", "-ec", "id someone || useradd --uid 1234 --create-home someone")
    home = "/home/someone"
    words = f"MOUNTPOINT={home}/mnt\nBASE={home}/base\nSTORAGE={home}/sto\nOPTIONS=\n"
    place(system, f"{home}/.config/minifo/mine.conf", words)
    directories(system, *(f"{home}/{name}" for name in ("mnt", "base", "sto")))
    system.root.must("chown", "-R", "someone:", home)
    system.boot()
    system.must("loginctl enable-linger someone; until [ -S /run/user/1234/systemd/private ]; do sleep 0.1; done")

    def as_user(command: str) -> str:
        return system.must(f"su someone -c '{command}'")

    manager = "XDG_RUNTIME_DIR=/run/user/1234 systemctl --user"
    as_user(f"{manager} start minifo@mine && echo one > {home}/mnt/new")
    killed = as_user(f"{manager} show -P MainPID minifo@mine").strip()
    as_user(f"kill -9 {killed}; for i in $(seq 100); do grep -q one {home}/mnt/new && exit 0; sleep 0.1; done; exit 1")
    assert as_user(f"{manager} show -P MainPID minifo@mine").strip() not in {killed, "0"}
    as_user(f"{manager} stop minifo@mine")
    assert system.run("grep fuse.minifo /proc/mounts").stdout == ""
    system.root.must("su", "someone", "-c", f"minifo-fsck {home}/sto")
    system.power_off()
