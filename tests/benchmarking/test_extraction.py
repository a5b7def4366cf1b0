"""The benchmark of extraction on films of a second."""

import json

import pytest

pytest.importorskip("av", reason="the extra `media` is not installed")

from limssr.processing.recipes_limssr import ClipExtractor, Recipe
from limssr.training.benchmark import report_extraction
from limssr.training.benchmarking.extraction import decode, extraction_table, write_film
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
    recipe = Recipe.load("classic").to_dict()
    recipe["modalities"]["video"]["short_side"] = 32
    (tmp_path / "mine.json").write_text(json.dumps({**recipe, "name": "mine"}))
    films = {"film_heights": (48,), "film_seconds": 1, "programme_seconds": 6}
    settings = Settings(language_model=TINY, repeats=1, recipe=str(tmp_path / "mine.json"), **films)
    report_extraction(settings, tmp_path / "numbers.json")
    results = json.loads((tmp_path / "numbers.json").read_text())
    assert results["speed"]["48"]["share"]["median"] > 0
    assert list(results["to_score"]) == list(results["peak_bytes"]) == ["3", "6"]
    printed = capsys.readouterr().out
    assert "seconds from 3 s of film to its score" in printed
    assert "required" not in printed
    speed = {48: results["speed"]["48"]}
    assert "required" in extraction_table({**results, "recipe": "classic", "speed": speed})
