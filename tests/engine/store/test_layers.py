"""The text that names a base of several layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifo.engine.store.layers import join_layers, layers_of, missing_layer, real_base, split_layers

PATHS = st.text(st.sampled_from("ab:,\\/. é\udc80"), max_size=8).map(lambda text: "/" + text)


@given(st.lists(PATHS, min_size=1, max_size=4))
def test_text_of_layers_is_exact(layers: list[str]) -> None:
    """Whatever characters are in the paths, the text means the same layers again."""
    assert layers_of(join_layers(layers)) == layers


@pytest.mark.parametrize("path", ["/srv/data", "relative", "/a:b", "/back\\slash", "/comma,"])
def test_one_directory_is_its_path(path: str) -> None:
    """A base that is one directory is written as it stands."""
    assert layers_of(path) == [path]
    assert join_layers([path]) == path


def test_escapes_of_a_list() -> None:
    """Colons, commas and backslashes in a path are written with a backslash; other backslashes stand for themselves."""
    assert split_layers(r"/a\:b:/c\,d:/e\\f:/g\h") == ["/a:b", "/c,d", "/e\\f", r"/g\h"]
    assert split_layers("/a::/b") == ["/a", "", "/b"]


def test_true_paths_and_missing_layers(tmp_path: Path) -> None:
    """Symlinks are resolved in each layer, and the first layer that is no directory is found."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "file").touch()
    paths = [str(tmp_path / name) for name in ("one", "two", "file", "gone")]
    assert real_base(join_layers(paths[:2])) == join_layers([paths[0], paths[0]])
    assert missing_layer(join_layers(paths)) == paths[2]
    assert missing_layer(join_layers(paths[:2])) is None
