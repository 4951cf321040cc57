"""docs/python-api.md, held to the Python API: its examples are run, and its tables are made of the docstrings.

``python -m tests.engine.test_api_document`` writes the tables anew.
"""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import re
from pathlib import Path

import minifo

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "python-api.md"
VALUES = (minifo.Change, minifo.Checkpoint, minifo.Reverted)


def sentence(documented: object) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())
    return re.sub(r"``([^`]*)``", r"`\1`", re.split(r"(?<=\.)\s", text)[0].rstrip("."))


def calls() -> list[str]:
    """A row for each public method of an overlay."""
    rows = []
    for name, method in inspect.getmembers(minifo.Overlay, inspect.isfunction):
        if not name.startswith("_"):
            found = inspect.signature(method)
            plain = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name != "self"]
            text = re.sub(r"mode=(\d+)", lambda mode: f"mode={int(mode[1]):#o}", str(inspect.Signature(plain)))
            durable = "durable" in (inspect.getdoc(method) or "").split("Raises:")[0]
            rows.append(f"| `{name}{text}` | {sentence(method)} | {'yes' if durable else ''} |")
    return rows


def errors() -> list[str]:
    """A row for each class of errors."""
    named = [getattr(minifo, name) for name in minifo.__all__]
    found = [value for value in named if isinstance(value, type) and issubclass(value, minifo.MinifoError)]
    return [f"| `{error.__name__}` | {sentence(error)} |" for error in found]


def values() -> list[str]:
    """A row for each class of results."""
    return [
        f"| `{value.__name__}` | {', '.join(f'`{field.name}`' for field in dataclasses.fields(value))} |"
        for value in VALUES
    ]


def with_tables(text: str) -> str:
    """The document with tables as they must be: each stands before a comment with its name."""
    for name, rows in (("errors", errors()), ("calls", calls()), ("values", values())):
        before, mark, after = text.partition(f"<!-- {name} -->")
        head = before[: before.rindex("|---|\n") + len("|---|\n")]
        text = head + "".join(f"{row}\n" for row in rows) + mark + after
    return text


def test_tables_are_those_of_the_module() -> None:
    """Each call is there with its arguments, each error and each attribute."""
    text = DOCUMENT.read_text()
    assert len(calls()) > 25
    assert with_tables(text) == text, "write them anew: python -m tests.engine.test_api_document"


def test_every_public_name_is_in_the_document() -> None:
    """And every name of the module that the document has is one."""
    text = DOCUMENT.read_text()
    missing = [name for name in minifo.__all__ if not re.search(rf"`(?:minifo\.)?{name}\b", text)]
    assert missing == []
    named = set(re.findall(r"\bminifo\.(\w+)", text))
    assert named - set(minifo.__all__) == {"engine", "tools"}
    assert all(kind.name in text for kind in minifo.Kind)


def test_examples(tmp_path: Path) -> None:
    """Each prints what the reader is told."""
    for name in ("etc", "var/lib/etc-changes"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("motd", "hosts.bak"):
        (tmp_path / "etc" / name).write_text(name)
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    text = re.sub(r'"/(?=etc"|var/)', f'"{tmp_path}/', "\n".join(blocks))
    test = doctest.DocTestParser().get_doctest(text, {}, DOCUMENT.name, str(DOCUMENT), 0)
    assert len(test.examples) > 15
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.failed == 0, "".join(said)


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
