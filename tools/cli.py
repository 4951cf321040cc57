"""``minifo``: the command line program with all its subcommands.

Each subcommand has a file of its own, which is imported when the user calls the subcommand.  This file maps names to
those files and turns every error into one line on stderr and an exit code.
"""

from __future__ import annotations

import importlib
import sys

import click

from ..engine.errors import MinifoError
from . import _common

# Subcommand: the module of this package whose function ``command`` is the click command.
_COMMANDS = {
    "cat": "cat",
    "completion": "completion",
    "diagnose": "diagnose",
    "digest": "digest",
    "diff": "diff",
    "du": "du",
    "fsck": "fsck",
    "install-helpers": "install_helpers",
    "list": "list",
    "log": "log",
    "merge": "merge",
    "meta": "meta",
    "metrics": "metrics",
    "migrate": "migrate",
    "mount": "mount",
    "overlay": "overlay",
    "rebase": "rebase",
    "report": "report",
    "run": "run",
    "sql": "sql",
    "state": "state",
    "status": "status",
    "sync": "sync",
    "umount": "umount",
    "upgrade": "upgrade",
    "watch": "watch",
    "which": "which",
}


class LazyGroup(click.Group):
    """A click group that imports the module of a subcommand only when the user calls it, to start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands, sorted."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the subcommand *cmd_name*, or None if minifo has no such subcommand."""
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"minifo.tools.{_COMMANDS[cmd_name]}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that the user has named; of a wrong word, say which ones are like it.

        Raises:
            click.UsageError: there is none.
        """
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib  # only where it is needed

            likely = difflib.get_close_matches(name, _COMMANDS)
            question = f". Did you mean {' or '.join(map(repr, likely))}?" if likely else ""
            raise click.UsageError(f"No such command {name!r}{question}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  minifo mount --base /usr --sto /var/lib/usr-changes /mnt/usr
  minifo umount /mnt/usr
  sudo minifo install-helpers     # after this, mount(8) and /etc/fstab know minifo:
  mount -t mini_fo -o base=/usr,sto=/var/lib/usr-changes none /mnt/usr

'minifo COMMAND --help' explains one command.""",
)
@click.version_option(package_name="minifo", message="minifo %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Make a read-only directory writable.

    A mount shows a base directory as if it were writable. Every change is stored in a storage directory; the base is
    never written. After a power cut the next mount shows the tree as of a commit, without repair.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; None for those of the process.

    Returns:
        The exit code: 0 for success, 1 for a wrong request, 32 for a mount or unmount that failed, 141 where the reader
        of the output has ended, 2 for any other failure.
    """
    return _common.run_tool(lambda: _run(arguments), _common.SYSTEM, broken_pipe=_common.BROKEN_PIPE)


def _run(arguments: list[str] | None) -> int:
    try:
        result = cli.main(arguments, prog_name="minifo", standalone_mode=False)
    except click.UsageError as exc:
        command = exc.ctx.command_path if exc.ctx is not None else "minifo"
        message = exc.format_message().rstrip(".")
        print(f"minifo: {_common.printable(message)}; see '{command} --help'", file=sys.stderr)
        return _common.USAGE
    except (click.Abort, KeyboardInterrupt):
        return _common.INTERRUPTED
    except BrokenPipeError:
        raise
    except SystemExit as exc:
        # click exits by itself after it has answered a shell that completes, and where output ends in a broken pipe
        if exc.code:
            raise BrokenPipeError from exc
        return 0
    except (MinifoError, OSError) as exc:
        return _common.fail("minifo", exc, _common.SYSTEM)
    # an int: what the command returned, or click's exit code for --help and --version
    return result if isinstance(result, int) else 0
