"""Adds the C extension to what pyproject.toml says; its compiler flags are known to pkg-config only.

Building needs the headers of libfuse 3.  Whoever lacks them is told so in one line, before anything is compiled or any
other package is built that needs them too (pyfuse3 does).
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from setuptools import Extension, setup

#: Commands that lead to a compilation; only a source distribution is made without the headers.
COMPILING = {"bdist_wheel", "build", "build_ext", "dist_info", "editable_wheel", "install"}

#: The C files of the extension; all but the first have a header.
PARTS = (
    *("hook", "callbacks", "clock", "counters", "fast_path", "generations", "init", "names", "ranges", "redo_record"),
    *("reply_cache", "shared_rules", "spin", "tmpfile"),
)

#: The oldest libfuse that has all handlers the extension sets (lseek).
OLDEST_LIBFUSE = "3.8"

ADVICE = "on Debian or Ubuntu: apt-get install libfuse3-dev pkg-config gcc python3-dev"


def pkg_config(what: str) -> list[str]:
    """Return the words pkg-config prints for fuse3.

    Args:
        what: ``--cflags`` or ``--libs``.

    Raises:
        SystemExit: pkg-config or libfuse 3 is missing; the message says what to install.
    """
    if shutil.which("pkg-config") is None:
        raise SystemExit(f"minifo: pkg-config is needed to build the C extension; {ADVICE}")
    found = subprocess.run(["pkg-config", what, "fuse3"], capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"minifo: the headers of libfuse 3 (libfuse3-dev) are not installed; {ADVICE}")
    old = subprocess.run(["pkg-config", f"--atleast-version={OLDEST_LIBFUSE}", "fuse3"], check=False)
    if old.returncode:
        raise SystemExit(f"minifo: libfuse {OLDEST_LIBFUSE} or newer is needed, which this system's is not")
    return found.stdout.split()


compiling = not COMPILING.isdisjoint(sys.argv)
setup(
    ext_modules=[
        Extension(
            "minifo.fusefront.extension._hook",
            [f"fusefront/extension/{part}.c" for part in PARTS],
            depends=[f"fusefront/extension/{part}.h" for part in (*PARTS[1:], "protocol")],
            extra_compile_args=[
                "-std=gnu11",
                "-Wall",
                "-Wextra",
                "-fvisibility=hidden",
                *(pkg_config("--cflags") if compiling else []),
            ],
            extra_link_args=[*(pkg_config("--libs") if compiling else []), "-ldl"],
        )
    ]
)
