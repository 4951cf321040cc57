"""``minifo``: the command line program with all its subcommands.

Each subcommand has a file of its own, which is imported when the user calls the subcommand.  This file maps names to
those files and turns every error into one line on stderr and an exit code.
"""

from __future__ import annotations

import importlib
import keyword
import sys
from typing import TYPE_CHECKING

import click

from ..engine.errors import MinifoError
from . import _common

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# All subcommands in the groups of the help text, each with the first sentence of its own help: to list them imports
# none (tests/tools/test_cli.py compares).  Each is ``command`` of the module that ``module_of`` names.
GROUPS = {
    "Use an overlay": {
        "mount": "Mount an overlay at MNT, an existing directory.",
        "umount": "Unmount the overlay at MNT.",
        "sync": "Make all changes so far in mounted overlays durable.",
        "overlay": "Mount an overlay of DIR, with everything chosen for you.",
        "run": "Run CMD in a sandbox, and say what it changed.",
        "txn": "Run CMD in the overlay TARGET: all of its changes, or none.",
        "list": "List the mounted overlays that can be seen from here.",
    },
    "Go back, mounted or not": {
        "checkpoint": "Keep states of an overlay that it can be brought back to.",
        "rollback": "Bring the overlay TARGET back to the checkpoint NAME.",
        "undo": "Take back the last command that took something away.",
        "redo": "Take back the last undo of the overlay TARGET.",
        "clone": "Make NEW, a storage that starts as the overlay TARGET.",
        "revert": "Let each PATH in an overlay be as in the base again.",
        "reset": "Take away all that the overlay TARGET holds, in one step.",
        "keep-list": "Name what a reset of an overlay keeps.",
        "trial": "Try changes that are taken back unless they are confirmed.",
        "confirm": "Confirm the present state of the overlay TARGET as good.",
    },
    "Look into one, mounted or not": {
        "status": "Show how the overlay TARGET is.",
        "diff": "List what the overlay TARGET changed.",
        "log": "Show who changed what in the overlay TARGET, and when.",
        "watch": "Show what the mounted overlay TARGET does, live.",
        "report": "Write a page about the overlay TARGET, for a browser.",
        "du": "Show what uses storage in the overlay TARGET.",
        "state": "Say what happened to each PATH in an overlay.",
        "which": "Show what backs PATH in an overlay.",
        "cat": "Write another version of the file PATH to stdout.",
        "sql": "Answer STATEMENT, in SQL, about the overlay TARGET.",
        "digest": "Print one hash of all that the overlay TARGET changed.",
        "metrics": "Print counters of mounted overlays for Prometheus.",
    },
    "Apply and adapt": {
        "export": "Write what the overlay TARGET changed, for other systems.",
        "backup": "Write a backup of the overlay TARGET.",
        "restore": "Make a storage of backups.",
        "bundle": "Ship what changed between two checkpoints to other devices.",
        "import": "Make a storage out of layers of other systems.",
        "vacuum": "Give back storage that the overlay TARGET does not need.",
        "merge": "Apply the changes in STO to the base, then empty STO.",
        "rebase": "Adapt the overlay in STO to a base that was replaced.",
        "meta": "Import and export mini_fo storages, and show META files.",
        "migrate": "Migrate the storages that PLAN, a TOML file, names.",
        "upgrade": "Upgrade the storage STO to the format of this minifo.",
    },
    "Find and repair": {
        "fsck": "Check the storage of an overlay and repair it.",
        "diagnose": "Tell why a user may not access PATH, and what to do.",
        "doctor": "Check whether minifo runs well on this machine.",
    },
    "Set up": {
        "install-helpers": "Make mount(8) and fstab find minifo.",
        "completion": "Print the script by which SHELL completes minifo.",
    },
}
_ALIASES = {"mark-good": "confirm"}  # as RAUC and others call it
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


def module_of(name: str) -> str:
    """Return the name of the module of a subcommand: with _ for -, and one at the end of what is a word of Python."""
    return name + "_" if keyword.iskeyword(name) else name.replace("-", "_")


class LazyGroup(click.Group):
    """A click group that imports the module of a subcommand only when the user calls it, to start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands, sorted."""
        return sorted(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all subcommands, by what they are for."""
        widest = max(map(len, COMMANDS))
        for heading, group in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:{widest}}", text) for name, text in group.items()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the subcommand *cmd_name*, or None if minifo has no such subcommand."""
        cmd_name = _ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module("minifo.tools." + module_of(cmd_name)).command
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what a word may be completed to: subcommands, of which none is imported, and options."""
        from click.shell_completion import CompletionItem  # only where it is needed

        found = [CompletionItem(name, help=COMMANDS[name]) for name in sorted(COMMANDS) if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that the user has named; of a wrong word, say which ones are like it.

        Raises:
            click.UsageError: there is none.
        """
        name = args[0]
        if name not in (*COMMANDS, *_ALIASES) and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib  # only where it is needed

            likely = difflib.get_close_matches(name, (*COMMANDS, *_ALIASES))
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
  sudo minifo install-helpers     # afterwards mount(8) and fstab know minifo:
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
