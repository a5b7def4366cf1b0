"""The suites come from the pinned distribution alone."""

from pathlib import Path

import pytest

from tests.helpers.upstream_suites import fetch_archive, read_pin


def test_the_pin_is_the_installed_version_of_our_environment():
    constraints = Path(__file__).parents[2] / "constraints.txt"
    assert f"transformers=={read_pin()[0]}" in constraints.read_text().splitlines()


def test_another_archive_is_not_used_and_without_an_index_the_suites_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    archive = tmp_path / "limssr" / "upstream" / f"transformers-{read_pin()[0]}.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"something else")
    with pytest.raises(pytest.skip.Exception, match="could not be downloaded: ERROR: No matching distribution"):
        fetch_archive()
