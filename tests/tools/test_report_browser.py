"""The report in a real browser: by keyboard, without scripts, light and dark, narrow, on paper."""

from __future__ import annotations

import os
import quopri
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.tools.cli import main
from tests.conftest import in_ci
from tests.shared.browser import PROGRAM, Browser
from tests.shared.overlay_sandbox import OverlaySandbox
from tests.tools.test_report import HOSTILE

# The lowest contrast between the text of an element and what is behind it (WCAG 2.2, 1.4.3 wants 4.5).
CONTRAST = """(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = parts(color).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (at) => {
    for (; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (parts(color)[3] !== 0) return color;
    }
  };
  let worst = [99, ""];
  for (const at of document.querySelectorAll("body *")) {
    if (![...at.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    if (["SCRIPT", "STYLE"].includes(at.tagName)) continue;
    const [a, b] = [light(getComputedStyle(at).color), light(behind(at))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, at.outerHTML.slice(0, 80)];
  }
  return worst;
})()"""
FOCUS = "document.activeElement.closest('.box')?.id"
OPEN = "[...document.querySelectorAll('#treemap .open')].map((at) => at.querySelector('b').textContent)"
SHOWN = "[...document.querySelectorAll('#changes-list tbody tr')].filter((row) => row.offsetHeight).length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser; where there is none the test is skipped, but fails in CI."""
    if PROGRAM is None:
        if in_ci():
            pytest.fail("a browser must be there in CI: apt-get install chromium", pytrace=False)
        pytest.skip("REPORT NOT TESTED IN A BROWSER: apt-get install chromium")
    made = Browser()
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an overlay with changes of each kind, hostile names among them."""
    top = tmp_path_factory.mktemp("report")
    sandbox = OverlaySandbox(top)
    for name in ("written", "chmodded", "gone", "moved", "replaced"):
        sandbox.put(name)
    sandbox.open(journal=1000).journal.command_of = {7: b"</td><b>\x1b"}.get
    sandbox.ov.journal.caller = lambda: (0, 7)
    sandbox.write("written", b"else" * 1000)
    sandbox.set("chmodded", mode=0o600)
    sandbox.unlink("gone")
    sandbox.rename("moved", "MOVED")
    sandbox.unlink("replaced")
    sandbox.mkdir("replaced")
    for name in HOSTILE:
        sandbox.create(os.fsdecode(name), b"x" * 3000)
    sandbox.create("long" * 60, b"l" * 3000)
    for directory in ("usr", "usr/lib", "usr/share", "var"):
        sandbox.mkdir(directory)
        for number in range(20):
            sandbox.create(f"{directory}/file{number}", b"f" * (5000 + 1000 * number))
    sandbox.close()
    (sandbox.base / "written").write_bytes(b"an update")
    file = top / "page.html"
    assert main(["report", str(sandbox.sto), "-o", str(file)]) == 0
    return file


@pytest.fixture
def shown(browser: Browser, page: Path) -> Iterator[Browser]:
    """The browser, with the report in a window of 1200 pixels; nothing in it was refused or failed."""
    browser.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.open(page)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


def test_the_map_by_keyboard(shown: Browser) -> None:
    """Tab goes to a directory, Enter looks into it, Escape leads back; focus stays where one is."""
    assert shown.get(OPEN) == ["all"]
    for _ in range(3):  # the crumb, the whole, the first directory
        shown.press("Tab")
    first = shown.get(FOCUS)
    shown.press("Enter")
    assert shown.get(OPEN) == ["all", "usr"]
    assert shown.get(FOCUS) == first
    assert shown.get(f"map.offsetWidth - document.getElementById('{first}').offsetWidth") <= 4  # its edges
    shown.press("Tab")
    shown.press("Enter")
    assert shown.get(OPEN) in (["all", "usr", "lib"], ["all", "usr", "share"])
    assert shown.get("document.querySelectorAll('#crumbs button').length") == 3
    shown.press("Escape")
    shown.press("Escape")
    assert (shown.get(OPEN), shown.get(FOCUS)) == (["all"], first)


def test_search(shown: Browser) -> None:
    """Words and kinds narrow the list."""
    every = shown.get(SHOWN)
    shown.get("search.focus()")
    for key in "MOVED":
        shown.press(key)
    assert shown.get(SHOWN) == 1
    assert shown.get("document.getElementById('matches').value") == f"1 of the {every} listed"
    shown.get("search.value = ''; search.dispatchEvent(new Event('input'))")
    shown.get(
        "[...document.querySelectorAll('button.chip')].find((chip) => chip.textContent.includes('deleted')).click()"
    )
    assert shown.get(SHOWN) == 1


def test_hostile_names_stay_text(shown: Browser) -> None:
    """They stand in the list as they are printed, and no element came from them."""
    assert shown.get("document.querySelectorAll('img, script').length") == 1  # the page's own
    text = shown.get("document.getElementById('changes-list').textContent")
    for name in ("/<script>alert(1)<", r"/\x1b[31mred\n\r\tline", r"/\u202egpj.exe"):
        assert name in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(shown: Browser, scheme: str) -> None:
    """The page follows the system, and every text can be read in both."""
    shown.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    paper = shown.get("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 17, 22)"}[scheme]
    worst, where = shown.get(CONTRAST)
    assert worst >= 4.5, where


def test_without_scripts(shown: Browser, page: Path) -> None:
    """The map and the list are there; what would not work is not."""
    shown.call("Emulation.setScriptExecutionDisabled", value=True)
    shown.open(page)
    text = quopri.decodestring(shown.call("Page.captureSnapshot")["data"])  # MHTML: its lines end anywhere
    assert b"What takes the space" in text
    metrics = shown.call("DOM.getDocument", depth=0)["root"]["nodeId"]
    for selector, is_there in ((".box.dir .box.file", True), ("#search", False), ("#crumbs", False)):
        node = shown.call("DOM.querySelector", nodeId=metrics, selector=selector)["nodeId"]
        if is_there:
            assert shown.call("DOM.getBoxModel", nodeId=node)["model"]["width"] > 5
        else:
            with pytest.raises(AssertionError, match="box model"):
                shown.call("DOM.getBoxModel", nodeId=node)


def test_narrow_and_on_paper(shown: Browser) -> None:
    """A phone needs no scrolling sideways; printing works."""
    shown.call("Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=2, mobile=True)
    assert shown.get("document.documentElement.scrollWidth") == 360
    assert len(shown.call("Page.printToPDF", printBackground=True)["data"]) > 10_000
