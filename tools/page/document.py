"""The page itself: its sections, from what was found out."""

from __future__ import annotations

import shlex
from importlib import resources

from ...engine import VERSION
from ...engine.queries.changes import Change
from ...engine.rebase.drift_report import Became, Entry
from .._common import printable
from .._size import size
from ..diff import WORDS
from ..status import lines
from . import timeline
from .elements import Child, Element, append, digest, element, path_text, table, written
from .findings import Findings
from .history import chapters
from .treemap import treemap

GENERATOR = "minifo report"  # how a report is recognized, in its head

_BECAME = {
    Became.UNCHANGED: ("as it was", "The base object is the one that the overlay was made over."),
    Became.CHANGED: ("changed", "The base has another version; what the overlay overrides stays."),
    Became.IDENTICAL: ("the same now", "The base has the same bytes as the overlay now."),
    Became.PARTIAL: ("other version", "The unwritten part of the file is in no base any more: reading it gives EIO."),
    Became.KIND: ("other type", "The base has an object of another type there."),
    Became.KEPT: ("gone, kept", "Gone from the base; the overlay holds enough to show it."),
    Became.HIDDEN: ("gone, not shown", "Gone from the base; the overlay holds too little to show it."),
    Became.UNHIDING: ("nothing to hide", "It was deleted here, and the base does not have it any more."),
    Became.SHADOW: ("new there, too", "It was made here, and the base has an object of that name now."),
}


def page(found: Findings) -> str:
    """Return the text of the page."""
    status = found.status
    base = printable(str(status["base"]))
    body = element("body", _header(found, base), _tiles(found))
    style = [_packaged("page.css"), timeline.styles()]
    for title, name, parts in (
        ("What takes the space", "space", _space(found, style)),
        ("What changed", "changes", _changes(found)),
        ("When", "timeline", _times(found)),
        ("What the journal says", "journal", _journal(found)),
        ("What became of the base", "drift", _drift(found)),
        ("How it is", "status", [_figures(found)]),
    ):
        if not parts and name not in found.problems:
            continue
        section = element("section", element("h2", title), id=name)
        problem = found.problems.get(name)
        if problem is not None:
            parts = [element("p", "This cannot be read: ", printable(problem), class_="attention")]
        append(section, *parts)
        body.append(section)
    append(
        body,
        element("footer", f"minifo {VERSION}, {timeline.stamp(found.now, found.now)}. This page loads nothing."),
    )
    styles, script = "\n".join(style), _packaged("page.js")
    policy = (
        f"default-src 'none'; style-src {digest(styles)}; script-src {digest(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="generator", content=GENERATOR),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"Overlay of {base}"),
        element("style", styles),
    )
    body.append(element("script", script))
    return written(element("html", head, body, lang="en"))


def _packaged(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _name(path: bytes) -> Element:
    return element("bdi", path_text(path), class_="name")


def _command(*words: str) -> Element:
    return element("code", printable(shlex.join(words)))


def _header(found: Findings, base: str) -> Element:
    status = found.status
    where = f"mounted at {status['mountpoint']}" if status["mounted"] else "not mounted"
    well = not status["attention"] and not found.problems
    header = element(
        "header",
        element("h1", "Overlay of ", element("bdi", base, class_="name")),
        element("p", "storage ", element("bdi", printable(status["storage"]), class_="name"), ", ", printable(where)),
        element("p", "All is well" if well else "Needs attention", class_="badge " + ("good" if well else "bad")),
    )
    for sentence in status["attention"]:
        header.append(element("p", printable(sentence), class_="attention"))
    if found.problems:
        advice = "A part of the overlay cannot be read. This says what is damaged, and changes nothing: "
        header.append(element("p", advice, _command("minifo", "fsck", "-n", status["storage"]), class_="attention"))
    return header


def _tiles(found: Findings) -> Element:
    usage = found.status["usage"]
    tiles: list[tuple[str, str]] = []
    if found.changes is not None:
        tiles.append((f"{found.changes.counts.total():,}", "changes"))
    tiles.append((size(usage["content"]), "of content"))
    tiles.append((size(usage["database"] + usage["log"]), "of database"))
    limit = f"free of {size(usage['limit'])}" if usage["limit"] is not None else "free"
    tiles.append((size(usage["free"]), limit))
    if found.drift is not None:
        drifted = found.drift.counts.total() - found.drift.counts[Became.UNCHANGED]
        tiles.append((f"{drifted:,}", "differ from the base they were made over"))
    parts = (element("div", element("b", number), element("span", what), class_="tile") for number, what in tiles)
    return element("div", *parts, class_="tiles")


# -- what takes the space


def _space(found: Findings, style: list[str]) -> list[Child]:
    if found.space is None or not found.space.size:
        return [element("p", "No file has bytes in storage.")]
    made = treemap(found.space)
    style.append(made.style)
    hint = "Each box is as large as the bytes that it takes in storage. "
    more = element("span", "Choose a directory to look into it; Escape leads back.", class_="scripted", hidden="")
    rows: list[tuple[Child, ...]] = [(size(entry.size), _name(entry.path)) for entry in found.largest]
    largest = element(
        "details",
        element("summary", f"The {len(rows)} largest files" if len(rows) > 1 else "The file"),
        table([("size", "number"), ("file", "")], rows),
    )
    return [
        element("p", hint, more),
        element("nav", id="crumbs", class_="scripted", hidden="", aria_label="Directories around this one"),
        made.element,
        largest,
    ]


# -- what changed


def _changes(found: Findings) -> list[Child]:
    if found.changes is None or not found.changes.counts:
        return [element("p", "Nothing was changed.")]
    counts = found.changes.counts
    kinds = [kind for kind in WORDS if counts[kind]]
    chips = element("p", class_="chips", id="kinds")
    for kind in kinds:
        mark = element("span", kind.value, class_=f"letter {kind.name.lower()}")
        chips.append(element("span", mark, f" {counts[kind]:,} {WORDS[kind]}", class_="chip", data_kind=kind.value))
    headings = [("directory", ""), *((WORDS[kind], "number") for kind in kinds)]
    places: list[tuple[Child, ...]] = [
        (_name(path), *(f"{counter[kind]:,}" if counter[kind] else "" for kind in kinds))
        for path, counter in found.changes.places
    ]
    parts: list[Child] = [chips, element("h3", "Where the most are"), table(headings, places, class_="places")]
    parts.append(element("h3", "Which"))
    field = element("input", type="search", id="search", placeholder="part of a name", autocomplete="off")
    label = element("label", "Show those with ", field, " ", element("output", id="matches", for_="search"))
    parts.append(element("p", label, class_="scripted", hidden=""))
    rows: list[tuple[Child, ...]] = [(_letters(change), _what(change)) for change in found.changes.listed]
    parts.append(element("div", table([("", "letters"), ("path", "")], rows, id="changes-list"), class_="long"))
    left = counts.total() - len(found.changes.listed)
    if left:
        more = element("p", f"and {left:,} more: ", _command("minifo", "diff", found.status["storage"]), class_="more")
        parts.append(more)
    return parts


def _letters(change: Change) -> Element:
    kind = change.kind
    return element("span", change.letters, class_=f"letter {kind.name.lower()}", title=WORDS[kind])


def _what(change: Change) -> Element:
    slash = b"/" if change.is_dir and change.path != b"/" else b""
    if change.old is None:
        return element("span", _name(change.path + slash))
    return element("span", _name(change.old + slash), " → ", _name(change.path + slash))


# -- when


def _times(found: Findings) -> list[Child]:
    if found.timeline is None:
        return [element("p", "No change has a time.")]
    parts: list[Child] = [*timeline.charts(found.timeline, found.now)]
    note = "Of each object only its last change is known, and nothing of what was deleted but its directory's."
    if found.timeline.undated:
        note += f" {found.timeline.undated:,} objects have a time that cannot be right: the clock was not set."
    parts.append(element("p", note, class_="note"))
    return parts


def _journal(found: Findings) -> list[Child]:
    return chapters(found.journal, found.now) if found.journal is not None else []


# -- drift


def _drift(found: Findings) -> list[Child]:
    if found.drift is None or not found.drift.counts:
        return [element("p", "The overlay holds nothing of an object of the base.")]
    counts = found.drift.counts
    rows: list[tuple[Child, ...]] = [
        (f"{counts[became]:,}", word, sentence) for became, (word, sentence) in _BECAME.items() if counts[became]
    ]
    parts: list[Child] = [table([("entries", "number"), ("base object", ""), ("", "")], rows, class_="words")]
    listed = found.drift.listed
    if not listed:
        return parts
    entries: list[tuple[Child, ...]] = [(_BECAME[entry.became][0], _held(entry)) for entry in listed]
    parts.append(element("div", table([("base object", ""), ("path", "")], entries), class_="long"))
    status = found.status
    rebase = _command("minifo", "rebase", status["storage"], "--base", str(status["base"]))
    left = counts.total() - counts[Became.UNCHANGED] - len(listed)
    advice = "Unmounted, this says what could be done about each, and changes nothing: "
    parts.append(element("p", f"and {left:,} more. " if left else None, advice, rebase, class_="more"))
    return parts


def _held(entry: Entry) -> Element:
    return element("span", _name(entry.path), f" ({entry.held.value})")


# -- how it is


def _figures(found: Findings) -> Element:
    listed = element("dl")
    for label, text in lines(found.status):
        append(listed, element("dt", label), element("dd", element("bdi", printable(text))))
    return listed
