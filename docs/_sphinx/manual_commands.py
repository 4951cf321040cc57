"""A page for each command of minifo, made of its click command: the texts of ``--help`` exist once, in the code.

Sphinx reads files only.  So each page is a file of two lines, made at the beginning of a build and known to no
repository; the directive in it builds the page.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import click
import help_text
from docutils import nodes
from help_text import Block
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from minifo.fusefront.mount.options import describe
from minifo.tools import cli

PAGES = Path(__file__).resolve().parents[1] / "man"
#: ``minifo fsck`` is the program minifo-fsck, which has a page that is written by hand.
ELSEWHERE = {"fsck": ("/fsck", "minifo-fsck(8)")}
VERBS = [name for name in cli.COMMANDS if name not in ELSEWHERE]


def man_pages() -> list[tuple[str, str, str, str, int]]:
    """Return what Sphinx must know of the man page of each command."""
    texts = ((name, cli.COMMANDS[name].rstrip(".")) for name in VERBS)
    return [(f"man/minifo-{name}.1", f"minifo-{name}", text[0].lower() + text[1:], "", 1) for name, text in texts]


def write_pages(app: Sphinx, config: object) -> None:
    """Make the file of each page; one that is right already stays as it is, for a build beside this one."""
    wanted = {f"minifo-{name}.1.md": f"# minifo-{name}\n\n<!-- insert command {name} -->\n" for name in VERBS}
    for page in PAGES.glob("minifo-*.1.md"):
        if page.name not in wanted:
            page.unlink()
    for name, text in wanted.items():
        page = PAGES / name
        if not page.exists() or page.read_text() != text:
            new = page.with_suffix(f".{os.getpid()}")
            new.write_text(text)
            new.replace(page)


def link(target: str, text: str) -> nodes.Node:
    """Return a link to another page of the manual, by its name from the root of the documents."""
    words = nodes.inline("", text, classes=["std", "std-doc"])
    return addnodes.pending_xref("", words, refdomain="std", reftype="doc", reftarget=target, refexplicit=True)


def link_to(verb: str) -> nodes.Node:
    """Return a link to the page of a command."""
    return link(*ELSEWHERE.get(verb, (f"/man/minifo-{verb}.1", f"minifo-{verb}(1)")))


def section(title: str, *content: nodes.Node) -> nodes.section:
    """Return a section with its title."""
    return nodes.section("", nodes.title("", title), *content, ids=[nodes.make_id(title)])


def listed(pairs: list[tuple[str, str]]) -> nodes.definition_list:
    """Return words with what they mean."""
    made = nodes.definition_list()
    for words, meaning in pairs:
        content = [nodes.paragraph("", "", *help_text.inline(meaning))] if meaning else []
        made += nodes.definition_list_item(
            "", nodes.term("", "", nodes.literal("", words)), nodes.definition("", *content)
        )
    return made


def shown(block: Block) -> list[nodes.Node]:
    """Return a block of a help text as it stands on the page."""
    if block.kind == "text":
        return [nodes.paragraph("", "", *help_text.inline(block.text))]
    if block.kind == "pairs":
        return [listed(block.pairs)]
    if block.kind == "examples":
        groups: list[tuple[str, list[str]]] = []
        for comment, line in block.pairs:
            if comment or not groups or groups[-1][0]:
                groups.append((comment, []))
            groups[-1][1].append(line)
        made: list[nodes.Node] = []
        for comment, lines in groups:
            if comment:
                made.append(nodes.paragraph("", f"{comment[0].upper()}{comment[1:]}:"))
            made.append(nodes.literal_block("\n".join(lines), "\n".join(lines), language="sh"))
        return made
    return [nodes.literal_block(block.text, block.text, language="none")]


def options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    """Return the options of a command, each with its help."""
    given = (parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option))
    records = (option.get_help_record(context) for option in given)
    return [record for record in records if record is not None]


class Command(SphinxDirective):
    """``<!-- insert command NAME -->``: the page of a command, with those that it is a group of."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return its sections."""
        name = self.arguments[0]
        self.env.note_dependency(str(cli.__file__))
        self.env.note_dependency(str(importlib.import_module(f"minifo.tools.{cli.module_of(name)}").__file__))
        top = click.Context(cli.cli, info_name="minifo", **cli.cli.context_settings)
        command = cli.cli.get_command(top, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=top)
        text = [command.help or "", command.epilog or ""]
        if isinstance(command, click.Group):
            inner = [
                (click.Context(each, info_name=word, parent=context), each) for word, each in command.commands.items()
            ]
            made = [section("Synopsis", *(self.usage(sub, each) for sub, each in inner)), *self.described(command)]
            for _, each in inner:
                text += [each.help or "", each.epilog or ""]
            parts = (section(sub.command_path, *self.flat(each, sub)) for sub, each in inner)
            made.append(section("Commands", *parts))
        else:
            made = [section("Synopsis", self.usage(context, command)), *self.described(command, context)]
        named = [verb for verb in help_text.verbs_in("\n".join(text)) if verb in cli.COMMANDS and verb != name]
        return [*made, self.see_also(named)]

    def usage(self, context: click.Context, command: click.Command) -> nodes.Node:
        """Return how the command is called, in a line."""
        words = " ".join(command.collect_usage_pieces(context))
        return nodes.paragraph("", "", nodes.strong("", context.command_path), nodes.Text(f" {words}"))

    def described(self, command: click.Command, context: click.Context | None = None) -> Iterator[nodes.section]:
        """Yield the sections of a command: what it does, its options, what its help says besides."""
        blocks = [*help_text.blocks(command.help or ""), *help_text.blocks(command.epilog or "")]
        top = [block for block in blocks if not block.title]
        yield section("Description", *(node for block in top for node in shown(block)))
        if context is not None:
            yield section("Options", listed(options(command, context)))
        titles = list(dict.fromkeys(block.title for block in blocks if block.title))
        for title in sorted(titles, key=["Exit status", "Examples"].count):
            yield section(title, *(node for block in blocks if block.title == title for node in shown(block)))

    def flat(self, command: click.Command, context: click.Context) -> Iterator[nodes.Node]:
        """Yield the same without sections, for a command of a group."""
        yield self.usage(context, command)
        yield from (node for block in help_text.blocks(command.help or "") for node in shown(block))
        yield listed(options(command, context))
        title = ""
        for block in help_text.blocks(command.epilog or ""):
            if block.title and block.title != title:
                yield nodes.paragraph("", "", nodes.strong("", f"{block.title}:"))
            title = block.title
            yield from shown(block)

    def see_also(self, verbs: list[str]) -> nodes.section:
        """Return the section that leads to other pages."""
        links: list[nodes.Node] = [link("/man/minifo.1", "minifo(1)")]
        for verb in verbs:
            links += [nodes.Text(", "), link_to(verb)]
        return section("See also", nodes.paragraph("", "", *links))


class Commands(SphinxDirective):
    """``<!-- insert commands -->``: all commands by what they are for, with links to their pages."""

    def run(self) -> list[nodes.Node]:
        """Return a list for each group of commands."""
        made: list[nodes.Node] = []
        for title, group in cli.GROUPS.items():
            pairs = nodes.definition_list()
            for verb, meaning in group.items():
                pairs += nodes.definition_list_item(
                    "", nodes.term("", "", link_to(verb)), nodes.definition("", nodes.paragraph("", meaning))
                )
            made += [nodes.paragraph("", "", nodes.strong("", title)), pairs]
        names = [f"man/minifo-{verb}.1" for verb in VERBS]
        contents = addnodes.toctree("", entries=[(None, name) for name in names], includefiles=names, hidden=True)
        contents.update_all_atts({"parent": self.env.docname, "glob": False, "maxdepth": 1, "titlesonly": True})
        contents.update_all_atts({"caption": None, "numbered": 0, "includehidden": False, "rawentries": []})
        made.append(contents)
        return made


class MountOptions(SphinxDirective):
    """``<!-- insert mount-options -->``: the options of ``-o``."""

    def run(self) -> list[nodes.Node]:
        """Return the list."""
        return [node for block in help_text.blocks(f"\b\n{describe()}") for node in shown(block)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know the directives, and make the pages before it looks for files."""
    app.connect("config-inited", write_pages)
    app.add_directive("command", Command)
    app.add_directive("commands", Commands)
    app.add_directive("mount-options", MountOptions)
    return {"parallel_read_safe": True}
