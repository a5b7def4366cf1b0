"""A dataset prints short, in a terminal and in a notebook."""

from dataclasses import replace
from html.parser import HTMLParser

from limssr.training.data import build, load


def make_data():
    data = load("synthetic", samples_train=40, samples_test=10)
    rows = data.splits["test"]
    data.splits["test"] = rows.map(lambda row: {"audio": None}, features=rows.features)
    return replace(data, description="dives & <jumps>", leaky=True)


def test_a_dataset_prints_in_six_lines():
    assert str(make_data()).splitlines() == [
        "AqaData: dives & <jumps>",
        "  splits      train 40, test 10",
        "  modalities  video (16, 0.0% missing), audio (12, 20.0% missing), flow (16, 0.0% missing)",
        "  scores      score 0 to 100",
        "  clips       at most 10 of a modality are kept",
        "  caveat      the features reveal the label",
    ]


def test_labels_alone_print_too(write_layout, tmp_path):
    write_layout("folder", tmp_path)
    labels = build("folder", folder=tmp_path).read_labels()
    assert "  modalities  imu (6), skeleton (34)" in repr(labels).splitlines()


def test_a_notebook_shows_the_same_as_a_table():
    data, texts = make_data(), []
    parser = HTMLParser()
    parser.handle_data = texts.append
    parser.feed(data._repr_html_())
    for line in str(data).splitlines()[1:]:
        title, text = line.split(maxsplit=1)
        assert texts[texts.index(title) + 1] == text
    assert texts[0] == data.description
