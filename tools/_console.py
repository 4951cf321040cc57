"""The console of ``minifo sql``: apsw's shell, with the commands that only change how an answer looks."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from apsw.shell import Shell

from ..engine.queries.views import VIEWS, Views
from ._common import printable

#: Commands of the shell that reach no file, program or other database, and no setting of the connection.
_COMMANDS = """
bail color colour echo exit header headers help mode nullvalue print prompt quit schema separator show tables timer
version width
"""
_ALLOWED = frozenset(_COMMANDS.split())
_WORDS = """
AND AS ASC BETWEEN BY CASE COUNT DESC DISTINCT ELSE END FROM GROUP HAVING IN IS JOIN LEFT LIKE LIMIT MATERIALIZED NOT
NULL ON OR ORDER SELECT SUM THEN UNION USING VALUES WHEN WHERE WITH
"""


class _Printable:
    """A terminal that gets printable lines only; otherwise the stream it stands for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write lines."""
        self._stream.write("\n".join(map(printable, text.split("\n"))))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Console(Shell):
    """A console on the views of an overlay.

    Args:
        views: what may be asked.
    """

    def __init__(self, views: Views) -> None:
        # names in answers may hold anything: no byte of them may steer the terminal
        out: Any = _Printable(sys.stdout)
        super().__init__(db=views.connection, stdout=out, stderr=out)
        self.command_colour(["off"])  # type: ignore[no-untyped-call]
        self._views = views
        self.history_file = "~/.minifo_sql_history"
        self.prompt = "minifo> "
        self.moreprompt = "   ...> "
        self.header = True

    def talk(self, intro: str) -> None:
        """Converse until the user ends it.

        Args:
            intro: a first line.
        """
        about = f"It only reads: {', '.join(VIEWS)}. Enter .help for help, .quit to end.\n"
        self.cmdloop(intro, about)  # type: ignore[no-untyped-call]

    def process_sql(self, sql: str, *arguments: Any, **named: Any) -> None:
        """Execute statements, each within the time that one may take."""
        self._views.start()
        super().process_sql(sql, *arguments, **named)

    def process_command(self, command: str) -> None:
        """Execute a command that begins with a dot."""
        name = command.split()[0].lstrip(".")
        if name not in _ALLOWED:
            raise self.Error(f"There is no .{name} here; there are .{', .'.join(sorted(_ALLOWED))}")
        super().process_command(command)  # type: ignore[no-untyped-call]

    def complete_sql(self, line: str, token: str, beg: int, end: int) -> list[str]:
        """Return the words of SQL, the views and their columns that begin with *token*."""
        names = {*VIEWS, *(column for columns in VIEWS.values() for column in columns)}
        return sorted(word for word in (*names, *_WORDS.split()) if word.lower().startswith(token.lower()))
