"""Pages: nothing from outside, no script, nothing of the data taken for markup, all numbers there."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from limssr.processing.recordings_limssr import Recording
from limssr.training.explanation.explanation import ClipContributions, Explanation, Neighbour
from limssr.training.explanation.figure import save_explanation
from limssr.training.explanation.frames import UPRIGHT, WIDE, read_strip
from limssr.training.explanation.page import Axis, distribution, find_ticks, number, signed, write_page
from tests.helpers.recordings import moving_pictures, tone, write_recording

MINUS = "\N{MINUS SIGN}"
INJECTION = '<script>alert("1")</script><img src=https://example.org/x onerror=alert(1)>'


@pytest.fixture
def explanation() -> Explanation:
    times = np.stack([np.arange(4) / 4, np.arange(1, 5) / 4], axis=1)
    subset_scores = {frozenset(): np.array([50.0]), frozenset(["video"]): np.array([62.5])}
    return Explanation(
        sample_id="dive 7",
        score_names=["score"],
        score_bounds=np.array([[0.0, 120.0]]),
        modalities=["video", "audio"],
        scores=np.array([62.5]),
        baseline=np.array([50.0]),
        baseline_name="training mean",
        contributions={"video": np.array([12.5])},
        leave_one_out={"video": np.array([12.5])},
        subset_scores=subset_scores,
        level=0.9,
        interval=np.array([[51.5, 73.5]]),
        sufficient_evidence=np.array([True]),
        complete_interval=np.array([[54.0, 71.0]]),
        training_quantiles=np.linspace(10, 90, 101)[None],
        clips={"video": ClipContributions(0, times, np.array([[0.5], [-3.2], [1.0], [0.0]]), None)},
        neighbours=[Neighbour("dive 3", np.array([61.0]), 0.931)],
        origin={"model": "user/name", "limssr": "0.1.0", "time": "2026-11-28T00:00:00+00:00"},
    )


class Elements(HTMLParser):
    """Names and attributes of all elements, and the words between them."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def read(explanation, folder) -> tuple[str, list, str]:
    write_page(explanation, folder / "page.html")
    text = (folder / "page.html").read_text(encoding="utf-8")
    parsed = Elements(text)
    return text, parsed.elements, " ".join(" ".join(parsed.words).split())


def test_the_page_says_it_all(explanation, tmp_path):
    _, _, words = read(explanation, tmp_path)
    for expected in ("dive 7", "62.5", "51.5 to 73.5", "90 % interval", "training mean", "50.0", "+12.5", "missing"):
        assert expected in words
    assert "The interval is 22.0 wide; with everything it would be 17.0." in words
    assert f"{MINUS}3.2 at 0.25 s to 0.50 s" in words
    assert "dive 3 similarity 0.93" in words
    assert "user/name" in words


def test_an_interval_that_is_no_wider_is_said_so(explanation, tmp_path):
    rare = replace(explanation, complete_interval=np.array([[40.0, 80.0]]))  # of few samples for calibration
    _, _, words = read(rare, tmp_path)
    assert "The interval is 22.0 wide, no wider than with everything." in words


def test_nothing_is_loaded_and_nothing_runs(explanation, tmp_path):
    recording = write_recording(tmp_path / "dive.mp4", moving_pictures(25))
    text, elements, _ = read(replace(explanation, recording=Recording(recording)), tmp_path)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base", "a"} & {tag for tag, _ in elements}
    for _, attributes in elements:
        assert not any(name.startswith("on") or name in ("href", "srcset") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:image/jpeg;base64,") or "src" not in attributes
    assert not re.search(r"url\(|@import|https?:", text)
    assert sum(tag == "img" for tag, _ in elements) == WIDE


def test_names_are_words_never_markup(explanation, tmp_path):
    evil = replace(
        explanation,
        sample_id=INJECTION,
        score_names=[INJECTION],
        neighbours=[Neighbour(INJECTION, np.array([1.0]), 0.5)],
        origin={**explanation.origin, "model": INJECTION},
    )
    _, elements, words = read(evil, tmp_path)
    assert not {"script", "img"} & {tag for tag, _ in elements}
    assert words.count(INJECTION) >= 4


def test_a_model_without_calibration_and_features_without_times(explanation, tmp_path):
    clips = {"video": replace(explanation.clips["video"], times=None)}
    nothing = dict.fromkeys(("interval", "sufficient_evidence", "complete_interval", "training_quantiles"))
    _, elements, words = read(replace(explanation, clips=clips, neighbours=[], **nothing), tmp_path)
    assert "the model is not calibrated" in words
    assert "clip 2" in words
    assert not any(tag == "img" for tag, _ in elements)
    _, _, words = read(replace(explanation, sufficient_evidence=np.array([False])), tmp_path)
    assert "Insufficient evidence." in words


def test_each_score_has_its_sheet(explanation, tmp_path):
    double = {
        name: np.repeat(getattr(explanation, name), 2, axis=0)
        for name in ("score_bounds", "scores", "baseline", "interval", "complete_interval", "training_quantiles")
    }
    parts = {"video": np.array([12.5, 12.5])}
    clips = {"video": replace(explanation.clips["video"], occlusion=np.ones((4, 2)))}
    neighbours = [Neighbour("dive 3", np.array([61.0, 9.5]), 0.931)]
    two = replace(
        explanation, score_names=["tes", "pcs"], contributions=parts, leave_one_out=parts, clips=clips, **double
    )
    two = replace(two, sufficient_evidence=np.array([True, False]), neighbours=neighbours)
    _, elements, words = read(two, tmp_path)
    assert sum(tag == "article" for tag, _ in elements) == 2
    assert "tes" in words
    assert "9.5 dive 3" in words
    save_explanation(two, tmp_path / "two.png")


def test_the_picture_is_written(explanation, tmp_path):
    save_explanation(replace(explanation, sample_id="$a_b$ 1"), tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > picture.height > 300


@pytest.mark.parametrize(("size", "count"), [((48, 64), WIDE), ((64, 48), UPRIGHT)])
def test_a_strip_has_a_picture_of_each_share_of_the_time(tmp_path, size, count):
    recording = write_recording(tmp_path / "dive.mp4", moving_pictures(25, *size))
    pictures = read_strip(Recording(recording), 0.0, 1.0)
    assert len(pictures) == count
    assert min(pictures[0].shape[:2]) == 120
    assert len(read_strip(Recording(recording), 0.0, 1.5)) == count  # beyond the last picture


def test_sound_alone_has_no_strip(tmp_path):
    assert read_strip(Recording(write_recording(tmp_path / "dive.mp4", sound=tone(1))), 0.0, 1.0) == []


def test_shares_of_training_scores_add_up():
    edges = np.linspace(0, 100, 11)
    np.testing.assert_allclose(distribution(np.linspace(0, 100, 101), edges), 0.1)
    constant = distribution(np.full(101, 55.0), edges)
    assert constant.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    many_zeros = distribution(np.concatenate([np.zeros(50), np.linspace(1, 100, 51)]), edges)
    assert many_zeros[0] > 0.49
    assert many_zeros.sum() == pytest.approx(1)


def test_places_ticks_and_numbers():
    assert Axis(0, 50).place(25) == 50
    assert Axis(0, 50).place(99) == 100
    assert find_ticks(0.0, 2.88) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert find_ticks(61.0, 240.0) == [100, 150, 200]
    assert [number(-0.04, 1), signed(0.04, 1), signed(2, 1), signed(-2, 1)] == ["0.0", "0.0", "+2.0", f"{MINUS}2.0"]
