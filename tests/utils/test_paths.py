"""Names that somebody else chose stay below their folder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limssr.training.utils.paths import OutsideError, path_below

OUTSIDE = ["", "/", "/etc/passwd", "..", "a/../../b", "a/..", "..\\b", "C:\\b", "c:b", "\\\\host\\share", "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_would_leave_the_folder_is_refused(tmp_path, name):
    with pytest.raises(OutsideError, match="leads out of its folder"):
        path_below(tmp_path, name)


@given(st.text("ab./\\:\0", max_size=8))
def test_whatever_is_permitted_lies_below(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    try:
        path = path_below(folder, name)
    except OutsideError:
        return
    assert path.resolve().is_relative_to(folder.resolve())


def test_links_lead_out_only_where_they_may(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(OutsideError, match="link that leads out"):
        path_below(tmp_path / "inside", "link/a.npy")
    assert path_below(tmp_path / "inside", "link/a.npy", follow_links=True).name == "a.npy"
    (tmp_path / "alias").symlink_to(tmp_path / "inside")
    assert path_below(tmp_path / "alias", "a.npy") == tmp_path / "alias" / "a.npy"
