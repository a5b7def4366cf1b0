"""What the events of the page do, without a browser: scores, ticks, memory, errors in one line."""

import re
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.modeling_limssr.neighbours_limssr import NeighbourIndex, digest_of_tokens
from limssr.processing.recipes_limssr import Recipe
from limssr.training.explanation.explanation import explain
from limssr.training.interface import handlers as module
from limssr.training.interface.handlers import Handlers
from limssr.training.interface.service import ScoringService, find_examples
from limssr.training.prediction.files import suffixes_of
from tests.helpers.models import recipe_with_text

LEVEL, SHOWN = 0.9, "score"
NO_FILES = (None, None, None)  # features of video and audio, commentary


@pytest.fixture(scope="module")
def handlers(model_folder, tmp_path_factory) -> Handlers:
    model = LimssrForScoreRegression.from_pretrained(model_folder).eval()
    processor = LimssrProcessor.from_pretrained(model_folder)
    examples = find_examples(model_folder / "example", suffixes_of(model.config.modalities))
    return Handlers(ScoringService(model, processor, examples, max_seconds=30), tmp_path_factory.mktemp("reports"))


def headline(html: str) -> float:
    return float(re.search(r"<strong>([\d.]+)</strong>", html)[1])


def interval(html: str) -> tuple[float, float]:
    return tuple(map(float, re.search(r"lies between ([\d.]+) and ([\d.]+)\.", html).groups()))


def score(handlers, recording, kept=None, start=0, end=0, given=NO_FILES) -> tuple:
    return handlers.score_upload(kept or {}, LEVEL, SHOWN, recording and str(recording), start, end, *given)


def test_a_recording_is_scored_as_explain_says_and_without_sound_otherwise(handlers, dive, model_folder):
    kept, ticks, player, results, *_ = score(handlers, dive)
    expected = explain(model_folder, recording=dive, level=LEVEL)
    assert headline(results) == pytest.approx(expected.scores[0], abs=0.01)
    assert interval(results) == pytest.approx(expected.interval[0].tolist(), abs=0.01)
    assert ticks["choices"] == ticks["value"] == ["video", "audio"]
    assert "<video controls" in player
    assert results.count("data-seconds") == sum(len(clips.times) for clips in expected.clips.values())

    silent = handlers.score_again(kept, LEVEL, SHOWN, ["video"])
    expected = explain(model_folder, recording=dive, without=["audio"], level=LEVEL)
    assert headline(silent) == pytest.approx(expected.scores[0], abs=0.01)
    assert np.diff(interval(silent)) > np.diff(interval(results))
    narrow = handlers.score_again(kept, 0.5, SHOWN, ["video"])
    assert np.diff(interval(narrow)) < np.diff(interval(silent))


def test_performances_like_it_are_named(handlers, dive, monkeypatch):
    model = handlers.service.model
    states = torch.randn(4, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([[61.0], [62.0], [63.0], [64.0]], dtype=torch.float64)
    ids = ["<b>1</b>", "<b>2</b>", "<b>3</b>", "<b>4</b>"]
    index = NeighbourIndex(ids, scores, {"video": torch.arange(4)}, {"video": states}, digest_of_tokens(model))
    monkeypatch.setattr(model, "neighbours", index)
    kept, _, _, results, *_ = score(handlers, dive)
    assert "most like this one" not in results  # none of them has the sound
    silent = handlers.score_again(kept, LEVEL, SHOWN, ["video"])
    shown = re.findall(r"<th scope=row>&lt;b&gt;(\d)&lt;/b&gt;</th><td>6(\d)\.00</td>", silent)
    assert [name for name, _ in shown] == [score for _, score in shown]
    assert len(shown) == 3


def test_a_part_a_text_and_feature_files_are_scored(handlers, dive, tmp_path):
    _, ticks, _, whole, *_ = score(handlers, dive)
    _, _, _, part, *_ = score(handlers, dive, start=0.32, end=1.28)
    assert headline(part) != headline(whole)
    np.save(tmp_path / "clips.npy", np.ones((3, 84), "float32"))
    _, ticks, player, _, *_ = score(handlers, None, given=(None, tmp_path / "clips.npy", " clean entry "))
    assert (ticks["value"], player) == (["audio", "commentary"], "")


def test_examples_and_performances_of_a_session_are_compared(handlers, dive):
    kept, *_ = handlers.score_example({}, LEVEL, SHOWN, "first")
    kept, *_, first, second = score(handlers, dive, kept)
    assert (first["choices"], first["value"], second["value"]) == (["first", "dive"], "dive", "first")
    kept, *_ = score(handlers, dive, kept)
    assert list(kept) == ["first", "dive", "dive (2)"]
    compared = handlers.compare(kept, LEVEL, SHOWN, "first", "dive (2)")
    assert "dive (2)" in compared
    assert compared.count("video, audio") == 2
    assert "The probability that the judges score first higher than dive (2) is 50%" in compared
    with_text = handlers.score_upload(kept, LEVEL, SHOWN, str(dive), 0, 0, None, None, "a clean entry")[0]
    scores = [
        headline(handlers.score_again({"one": with_text[name]}, LEVEL, SHOWN, list(with_text[name].contents)))
        for name in ("dive (3)", "dive")
    ]
    compared = handlers.compare(with_text, LEVEL, SHOWN, "dive (3)", "dive")
    percent = int(re.search(r"is (\d+)%", compared)[1])
    assert (percent > 50) == (scores[0] > scores[1])


def test_a_report_says_what_the_page_says(handlers, dive):
    kept, *_ = score(handlers, dive)
    page = Path(handlers.report(kept, LEVEL, SHOWN, ["video"]))
    assert page.name == "dive.html"
    text = page.read_text()
    assert f"{headline(handlers.score_again(kept, LEVEL, SHOWN, ['video'])):.1f}" in text
    assert "data:image/jpeg" in text  # the strip of pictures
    assert handlers.folder in page.parents


def test_the_oldest_performances_are_forgotten_when_memory_is_short(handlers, dive, monkeypatch):
    kept, *_ = score(handlers, dive)
    monkeypatch.setattr(module, "KEPT_BYTES", int(2.5 * kept["dive"].size))
    for _ in range(3):
        kept, *_ = score(handlers, dive, kept)
    assert len(kept) == 2
    monkeypatch.setattr(module, "KEPT_BYTES", 10)
    with pytest.raises(gr.Error, match="too long for this page"):
        score(handlers, dive)


def test_errors_are_one_line_without_folders(handlers, dive):
    uploads = handlers.folder / "0a1b2c"  # as Gradio keeps uploaded files
    uploads.mkdir()
    (uploads / "broken.mp4").write_bytes(b"no film")
    np.save(uploads / "wide.npy", np.ones((3, 99), "float32"))
    kept, *_ = score(handlers, dive)
    wrong = [
        (lambda: score(handlers, None), "There is nothing to score: give a recording"),
        (lambda: score(handlers, uploads / "broken.mp4"), "^'broken.mp4: no video or sound that FFmpeg can read"),
        (lambda: score(handlers, dive, start=3, end=2), "start is 3 and end is 2, expected 0 &lt;= start &lt; end"),
        (lambda: score(handlers, None, given=(uploads / "wide.npy", None, "")), "99"),
        (lambda: handlers.score_again(kept, LEVEL, SHOWN, []), "Tick one modality or more"),
        (lambda: handlers.score_again({}, LEVEL, SHOWN, ["video"]), "Nothing is scored yet, or an hour has passed"),
        (lambda: handlers.compare(kept, LEVEL, SHOWN, "dive", None), "score a second one first"),
        (lambda: handlers.score_again(kept, 2.0, SHOWN, ["video"]), "`level` is 2.0"),
        (lambda: handlers.score_example({}, LEVEL, SHOWN, "other"), "There is no example"),
    ]
    for call, message in wrong:
        with pytest.raises(gr.Error, match=message) as caught:
            call()
        assert "\n" not in caught.value.message
        assert str(uploads) not in caught.value.message


def test_a_long_recording_is_refused(handlers, dive, monkeypatch):
    service = ScoringService(handlers.service.model, handlers.service.processor, max_seconds=1)
    with pytest.raises(gr.Error, match="more than max_seconds=1; give start and end"):
        score(Handlers(service, handlers.folder), dive)


def test_a_fault_of_ours_is_logged_and_says_nothing(handlers, dive, monkeypatch, caplog):
    monkeypatch.setattr(handlers.service, "read", lambda *_: 1 / 0)
    with pytest.raises(gr.Error, match=r"^'The page has a fault"):
        score(handlers, dive)
    assert "ZeroDivisionError" in caplog.text


def test_names_cannot_write_html(handlers, dive):
    kept, *_ = score(handlers, dive)
    odd = module.Performance("<img src=x>", kept["dive"].contents, kept["dive"].times, kept["dive"].recording)
    shown = handlers.score_again({"<img src=x>": odd}, LEVEL, SHOWN, ["video"])
    shown += handlers.compare({"<img src=x>": odd, **kept}, LEVEL, SHOWN, "<img src=x>", "dive")
    assert "<img" not in shown
    assert "&lt;img src=x&gt;" in shown


def test_a_text_that_the_recipe_reads_has_a_box(tiny_encoder, tiny_text_config, tiny_tokenizer, tmp_path):
    recipe = recipe_with_text(tiny_encoder)
    sizes = Recipe.load(recipe).feature_sizes
    config = LimssrConfig(text_config=tiny_text_config, modalities=sizes, score_ranges=[100.0])
    processor = LimssrProcessor.from_config(config, tiny_tokenizer, recipe=recipe)
    model = LimssrForScoreRegression(config).eval()
    own = Handlers(ScoringService(model, processor), tmp_path)
    assert (own.clips, own.texts) == (["video", "audio"], ["commentary"])
    _, ticks, _, results, *_ = score(own, None, given=(None, None, " she dive into the water "))
    expected = explain(model, processor=processor, features={"commentary": "she dive into the water"})
    assert headline(results) == pytest.approx(expected.scores[0], abs=0.01)
    assert ticks["value"] == ["commentary"]
