"""The benchmark of extraction on films of a second."""

import json

import pytest

pytest.importorskip("av", reason="the extra `media` is not installed")

from limssr.processing.recipes_limssr import ClipExtractor
from limssr.training.benchmark import report_extraction
from limssr.training.benchmarking.extraction import decode, write_film
from limssr.training.benchmarking.workload import Settings

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 257,
}


def test_a_film_has_the_pictures_and_the_sound_it_should(tmp_path):
    film = write_film(tmp_path / "a.mp4", 1, 48)
    assert decode(film) == 25
    found = ClipExtractor("classic").extract(film)
    assert {name: len(clips.features) for name, clips in found.items()} == {"video": 3, "audio": 3}


@pytest.mark.slow
def test_the_report_has_every_number(tmp_path, capsys):
    films = {"film_heights": (48,), "film_seconds": 1, "programme_seconds": 6}
    report_extraction(Settings(language_model=TINY, repeats=1, **films), tmp_path / "numbers.json")
    results = json.loads((tmp_path / "numbers.json").read_text())
    assert results["speed"]["48"]["share"]["median"] > 0
    assert list(results["to_score"]) == list(results["peak_bytes"]) == ["3", "6"]
    assert "seconds from 3 s of film to its score" in capsys.readouterr().out
