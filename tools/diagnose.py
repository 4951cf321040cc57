"""``minifo diagnose``: why an access is refused although ``ls -l`` seems to allow it, and what to do about it.

A child process takes the ids of the user in question and tries every directory on the path in turn.  So ACLs, and
mounts that other users have made, count as they do for that user.  The first refusal is reported.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import stat
from collections.abc import Callable
from typing import NamedTuple

import click

from ..engine.errors import UsageError
from ..engine.model import ACL_ACCESS
from . import _common

_MODES = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}
_WORDS = {"r": "read", "w": "written", "x": "executed or entered"}


class Cause(NamedTuple):
    """The reason why an access is refused (``what``), and what the user can do about it (``remedy``)."""

    what: str
    remedy: str


class _User(NamedTuple):
    name: str
    uid: int
    gid: int
    groups: list[int]


@click.command(
    "diagnose",
    epilog="""\b
Examples:
  minifo diagnose /mnt/etc/shadow
  sudo minifo diagnose --user www-data --for w /mnt/www/upload
The exit code is 0 if the access is allowed, 1 if it is not.""",
)
@click.option("--user", metavar="NAME", help="The user whose access is tested (default: you; others: root only).")
@click.option(
    "--for",
    "want",
    type=click.Choice(["r", "w", "x"]),
    default="r",
    help="The access to test: read (default), write, or execute/enter.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("path")
def command(path: str, user: str | None, want: str, as_json: bool) -> int:
    """Tell why a user may not access PATH, and what to do."""
    cause = diagnose(os.path.abspath(path), _user(user), want)
    if as_json:
        facts = {"cause": None, "remedy": None} if cause is None else {"cause": cause.what, "remedy": cause.remedy}
        click.echo(json.dumps({"path": path, "allowed": cause is None, **facts}))
        return 0 if cause is None else _common.USAGE
    if cause is None:
        click.echo(f"{_common.printable(path)} may be {_WORDS[want]}")
        return 0
    click.echo(f"cause:  {_common.printable(cause.what)}")
    click.echo(f"remedy: {_common.printable(cause.remedy)}")
    return _common.USAGE


def _user(name: str | None) -> _User:
    """Return the user with a name; the present user if *name* is None.

    Raises:
        UsageError: the user does not exist, or only root may ask about that user.
    """
    if name is None:
        uid = os.geteuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        return _User(name, uid, os.getegid(), os.getgroups())
    try:
        found = pwd.getpwnam(name)
    except KeyError as error:
        raise UsageError(f"there is no user {name}", "list all users with: getent passwd") from error
    if os.geteuid() not in (0, found.pw_uid):
        raise UsageError(f"only root can ask about {name}", "use sudo")
    return _User(name, found.pw_uid, found.pw_gid, os.getgrouplist(name, found.pw_gid))


def diagnose(path: str, user: _User, want: str) -> Cause | None:
    """Return the first cause for which an access is refused, or None if it is allowed.

    Args:
        path: the absolute path to access.
        user: the user who accesses it.
        want: the access: ``r``, ``w`` or ``x``.
    """
    from ..fusefront.mount import mount_table

    prefix = "/"
    for name in ["", *path.strip("/").split("/")]:
        prefix = os.path.join(prefix, name)
        last = prefix.rstrip("/") == path.rstrip("/")
        try:
            entry = mount_table.find_mount(prefix) if not os.path.islink(prefix) else None
        except OSError as error:
            if error.errno in mount_table.DEAD_ERRNOS:
                return Cause(
                    f"the daemon of the mount at {prefix} is gone", f"minifo umount {prefix}, then mount it again"
                )
            entry = None  # this process may not look there; the probe as the user below decides
        if entry is not None and mount_table.overlay_of(entry) is not None:
            cause = _refused_by_mount(entry.options, prefix, user, want)
            if cause is not None:
                return cause
        needed = _MODES[want] if last else os.X_OK
        code = _as_user(user, lambda p=prefix, n=needed: _access(p, n))  # type: ignore[misc]
        if code:
            return _refused_by_file(prefix, user, want if last else "x", code)
    if want == "r":
        code = _as_user(user, lambda: _open(path))
        if code in (errno.EACCES, errno.EPERM):
            return Cause(
                f"the mount's daemon may not read the base's object of {path}",
                "mount as root, or as a user who may read that object",
            )
    return None


def _refused_by_mount(options: tuple[str, ...], path: str, user: _User, want: str) -> Cause | None:
    """Return the cause if the options of an overlay's mount refuse the access, else None."""
    owner = next((int(word[8:]) for word in options if word.startswith("user_id=")), 0)
    if "allow_other" not in options and user.uid != owner:
        return Cause(
            f"only the user with uid {owner}, not even root, may access the mount at {path}",
            "mount it with -o allow_other (see user_allow_other in /etc/fuse.conf), or as root",
        )
    for word, letter in (("ro", "w"), ("noexec", "x")):
        if word in options and want == letter:
            return Cause(f"{path} is mounted with the option {word}", f"unmount it and mount it without {word}")
    return None


def _refused_by_file(path: str, user: _User, want: str, code: int) -> Cause:
    """Return the cause why a system call on *path* has failed with the errno *code*."""
    if code in (errno.ENOENT, errno.ENOTDIR):
        return Cause(f"{path} does not exist", "check the path")
    if code == errno.EROFS:
        return Cause(f"{path} is in a read-only file system", "mount that file system writable")
    if code != errno.EACCES:
        return Cause(f"{path} cannot be accessed ({os.strerror(code)})", "read the log of the mount")
    try:
        st = os.stat(path)
        has_acl = os.fsdecode(ACL_ACCESS) in os.listxattr(path)
    except OSError:
        return Cause(f"{user.name} may not enter a directory above {path}", "ask as root: sudo minifo diagnose --user")
    if has_acl and _by_mode(st, user, _MODES[want]):
        return Cause(f"an ACL of {path} refuses {user.name}", f"read it with getfacl {path}, change it with setfacl")
    is_dir = stat.S_ISDIR(st.st_mode)
    subject = f"the directory {path}" if is_dir else path
    verb = "entered" if is_dir and want == "x" else _WORDS[want]
    owner = f"owner {_name_of(st.st_uid)}, mode {stat.filemode(st.st_mode)}"
    return Cause(f"{subject} may not be {verb} by {user.name} ({owner})", f"chmod or chown {path}")


def _name_of(uid: int) -> str:
    """Return the name of the user with the number *uid*, or the number as text if it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _by_mode(st: os.stat_result, user: _User, needed: int) -> bool:
    """Return whether the mode bits alone, without an ACL, allow *needed* (``os.R_OK``, ``W_OK`` or ``X_OK``)."""
    if user.uid == 0:
        return True
    shift = 6 if st.st_uid == user.uid else 3 if st.st_gid in {user.gid, *user.groups} else 0
    return bool(st.st_mode >> shift & needed)


def _access(path: str, needed: int) -> int:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno or errno.EIO
    if os.access(path, needed, effective_ids=True):
        return 0
    read_only = needed == os.W_OK and os.statvfs(path).f_flag & os.ST_RDONLY
    return errno.EROFS if read_only else errno.EACCES


def _open(path: str) -> int:
    """Open and read a file or list a directory, and return the errno or 0; devices and fifos are not opened.

    access(2) asks the mount only; the read shows whether the daemon can read the base.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return 0
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(mode):
                os.pread(fd, 1, 0)
            else:
                os.listdir(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _as_user(user: _User, probe: Callable[[], int]) -> int:
    """Run *probe* with the ids of *user*, in a child process if they differ from ours; return the errno or 0."""
    if os.geteuid() == user.uid:
        return probe()
    child = os.fork()
    if child == 0:
        code = errno.EIO
        try:
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            code = probe()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
