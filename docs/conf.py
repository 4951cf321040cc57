"""How Sphinx makes the manual: HTML for a browser, and man pages.

    python3 -m sphinx -b html docs build/docs
    python3 -m sphinx -b man docs build/man

The pages are the Markdown files here, as they stand.  What the program itself knows (commands, options, tables of the
database) is taken from its code, by the modules in ``_sphinx``.  The code is that of this checkout: nothing of minifo
needs to be installed, only what it imports.  A source distribution lacks the links to it; there minifo is the one that
Python finds.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# the folders of the checkout as the package minifo
sys.path[:0] = [str(HERE / "_sphinx"), str(HERE.parent / "tests" / "_typing")]

import manual_commands  # noqa: E402

from minifo.engine import VERSION  # noqa: E402

project = "minifo"
version = release = VERSION
copyright = author = ""

extensions = ["myst_parser", "manual_markdown", "manual_commands", "manual_schema", "manual_roff"]
exclude_patterns = ["_sphinx"]
root_doc = "index"
highlight_language = "none"
today_fmt = "%Y-%m-%d"
smartquotes = False  # an option begins with two hyphens

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

html_theme = "furo"
html_title = f"minifo {VERSION}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_sphinx/static"]
html_css_files = ["manual.css"]

man_make_section_directory = True
#: The document, the name of the page, what stands beside the name, authors, section of the manual.
man_pages = [
    ("man/minifo.1", "minifo", "make a read-only directory writable, safe from power cuts", "", 1),
    ("man/mount.mini_fo.8", "mount.mini_fo", "mount and unmount an overlay for mount(8) and fstab", "", 8),
    ("fsck", "minifo-fsck", "check and repair the storage of an overlay", "", 8),
    ("internals/storage-format", "minifo-storage", "what lies in the storage of an overlay", "", 5),
    ("legacy", "minifo-meta", "the META files and storages of mini_fo", "", 5),
    ("durability", "minifo", "what minifo promises, and what it costs", "", 7),
    ("containers", "minifo-containers", "keep containers of podman and buildah in overlays", "", 7),
    ("root", "minifo-root", "run the system on an overlay, from boot on", "", 7),
    ("systemd", "minifo-systemd", "mount overlays as units of systemd", "", 7),
    *manual_commands.man_pages(),
]
