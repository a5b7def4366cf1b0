"""Label files in every form in which they are about: what is read is what was written, and mistakes have a line."""

import contextlib
import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limssr.training.data.sources.labels import LabelError, check_apart, parse_number, read_label_csv, read_label_table

NAMES = st.text("aZ09_-/", min_size=1, max_size=9).filter(lambda name: not name.startswith("/"))
IDS = st.lists(NAMES, min_size=1, max_size=4, unique=True)
SCORES = st.floats(-1e6, 1e6).map(lambda value: round(value, 4))
GAPS = st.sampled_from([" ", "\t", "  ", " \t ", "\t\t"])
HEADERS = st.sampled_from([None, "id TES PCS", "Video_Name\tTES_Score    PCS_score", "name a b"])


def write(folder, content: str | bytes):
    path = folder / "labels.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@settings(max_examples=50)
@given(ids=IDS, data=st.data(), header=HEADERS, end=st.sampled_from(["\n", "\r\n"]), mark=st.booleans())
def test_any_table_comes_back(tmp_path_factory, ids, data, header, end, mark):
    rows = [(sample_id, data.draw(SCORES), data.draw(SCORES)) for sample_id in ids]
    lines = [] if header is None else [header]
    for sample_id, tes, pcs in rows:
        lines.append(f"{sample_id}{data.draw(GAPS)}{tes}{data.draw(GAPS)}{pcs}{data.draw(st.sampled_from(['', ' ']))}")
        lines += data.draw(st.sampled_from([[], [""]]))
    path = write(tmp_path_factory.mktemp("labels"), ("\ufeff" if mark else "") + end.join(lines) + end)
    labels = read_label_table(path, ["tes", "pcs"])
    assert labels.sample_ids == ids
    np.testing.assert_array_equal(labels.columns["tes"], [tes for _, tes, _ in rows])
    np.testing.assert_array_equal(labels.columns["pcs"], [pcs for _, _, pcs in rows])
    written = path.read_text(encoding="utf-8-sig").split("\n")
    assert [written[line - 1].split()[0] for line in labels.lines] == ids


def test_a_header_says_where_the_columns_are(tmp_path):
    path = write(tmp_path, "id Total_Score TES pcs note\na 9 1 2 7\nb 9 3 4 7\n")
    labels = read_label_table(path, ["tes", "pcs"])
    assert labels.columns["tes"].tolist() == [1, 3]
    assert labels.columns["pcs"].tolist() == [2, 4]
    with pytest.raises(LabelError, match=r"the columns are id, Total_Score, TES, pcs, note; expected an id, then tes"):
        read_label_table(path, ["tes", "penalty"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "there is no sample in it; expected lines of id, tes, pcs"),
        ("id tes pcs\n", "there is no sample in it"),
        ("tes pcs\n1 2\n", "line 1: the first column is 'tes', expected one of ids"),
        ("a 1,5 2\n", "line 1, sample 'a': tes is '1,5': a comma stands where the decimal point belongs"),
        ("a 1,5 2,5\n", "line 1, sample 'a': tes is '1,5'"),
        ("id tes pcs\na 1 2\n\nb 1 ,5\n", "line 4, sample 'b': pcs is ',5': a comma"),
        ("a 1 2\nb 1\n", "line 2: there are 2 columns, expected 3, an id and tes, pcs among them"),
        ("a 1\nb 1 2\n", "line 1: there are 2 columns, expected 3"),
        ("a 1 2\nb 1 2 3\n", "line 2: there are 4 columns, expected 3"),
        ("a 1 2\nb 1 2\na 1 2\n", "line 3: sample 'a' is already on line 1"),
        ("a 1 2\nb 1 inf\n", "line 2, sample 'b': pcs is 'inf', expected a number"),
        ("a 1 2\nb 1_0 2\n", "line 2, sample 'b': tes is '1_0', expected a number"),
        ("a 1 2\nb 1 1e999\n", "line 2, sample 'b': pcs is '1e999', expected a number"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
    ],
)
def test_mistakes_in_a_table_have_their_line(tmp_path, content, said):
    with pytest.raises(LabelError, match=rf"labels\.txt.*{said}"):
        read_label_table(write(tmp_path, content), ["tes", "pcs"])


@given(st.one_of(st.text(max_size=8), st.floats().map(str), st.from_regex(r"[-+0-9.,eE_]{0,6}", fullmatch=True)))
def test_a_number_is_what_python_reads_or_an_error(text):
    try:
        expected = float(text)
    except ValueError:
        expected = None
    plain = text.isascii() and "_" not in text and text == text.strip()
    if expected is not None and plain and np.isfinite(expected):
        assert parse_number(text, "here") == expected
    else:
        with pytest.raises(LabelError, match="here is"):
            parse_number(text, "here")


@given(content=st.one_of(st.binary(max_size=80), st.text('ab1,. \t\n\r\ufeff"', max_size=80).map(str.encode)))
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path_factory, content):
    path = write(tmp_path_factory.mktemp("labels"), content)
    for read in (lambda: read_label_table(path, ["tes"]), lambda: read_label_csv(path, ["tes"], ["split"])):
        with contextlib.suppress(LabelError):
            labels = read()
            assert len(labels.sample_ids) == len(set(labels.sample_ids)) == len(labels.columns["tes"]) > 0


@settings(max_examples=50)
@given(ids=IDS, data=st.data(), end=st.sampled_from(["\n", "\r\n"]), mark=st.booleans())
def test_any_csv_comes_back_and_empty_cells_are_missing(tmp_path_factory, ids, data, end, mark):
    scores = [data.draw(st.none() | SCORES) for _ in ids]
    notes = [data.draw(st.text("abc, \"'ü\n", max_size=6).map(str.strip)) for _ in ids]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator=end)
    writer.writerow(["note", "sample_id", "score"])
    writer.writerows((note, sample_id, score) for note, sample_id, score in zip(notes, ids, scores, strict=True))
    path = write(tmp_path_factory.mktemp("labels"), ("\ufeff" if mark else "") + stream.getvalue())
    labels = read_label_csv(path, ["score"], ["note"])
    assert labels.sample_ids == ids
    starts = np.cumsum([2, *(1 + note.count("\n") for note in notes[:-1])]).tolist()
    assert labels.lines == starts
    assert labels.texts["note"] == [note or None for note in notes]
    expected = [np.nan if score is None else score for score in scores]
    np.testing.assert_array_equal(labels.columns["score"], expected)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the columns are none; expected sample_id"),
        ("id,score\na,1\n", "the columns are id, score; expected sample_id"),
        ("sample_id;score\na;1\n", "line 1: the columns are sample_id;score; expected .* separated by commas"),
        ("sample_id,score,score\na,1,1\n", "line 1: there are two columns 'score'"),
        (",sample_id,score\n0,a,1\n", r"line 1: column 1 has no name; .* to_csv gets index=False"),
        ("sample_id,score,Unnamed: 2\na,1,0\n", "line 1: column 3 has no name"),
        ("sample_id,score,\na,1,\n", "line 1: column 3 has no name"),
        ("sample_id,score\n", "there is no sample in it"),
        ("sample_id,points\na,1\n", "there is no column 'score'; the columns are sample_id, points"),
        ("sample_id,score\na,1,5\n", "line 2: there are 3 cells, expected 2"),
        ('sample_id,score\na,"1,5"\n', "line 2, sample 'a': score is '1,5': a comma stands"),
        ("sample_id,score\na,1\na,2\n", "line 3: sample 'a' is already on line 2"),
        ("sample_id,score\na,1\n,2\n", "line 3: the id of a sample is empty"),
        ("sample_id,score\na,x\n", "line 2, sample 'a': score is 'x', expected a number"),
        ('sample_id,note,score\na,"two\nlines",1\n\nb,,x\n', "line 5, sample 'b': score is 'x'"),
        ('sample_id,note,score\na,"two\nlines",1\nb,"two\nlines"\n', "line 4: there are 2 cells, expected 3"),
        ('sample_id,score\na,1\nb,"2\nc,3\n', "line 3: not a CSV: unexpected end of data"),
        ('sample_id,score\na,"1"x\n', "line 2: not a CSV"),
        ('sample_id,score\n"a\nb",1\n', r"line 2: the id 'a\\nb' has a line break"),
        ("sample_id,score\nDive1,1\ndive1,2\n", "line 3: sample 'dive1' is already on line 2, as 'Dive1'"),
        ("sample_id,score\n\u00e9,1\ne\u0301,2\n", "line 3: .* is already on line 2, as"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*`git lfs pull`"),
    ],
)
def test_mistakes_in_a_csv_have_their_line(tmp_path, content, said):
    with pytest.raises(LabelError, match=rf"labels\.txt.*{said}"):
        read_label_csv(write(tmp_path, content), ["score"], [])


def test_a_sample_in_two_splits_is_named_with_both_lines(tmp_path):
    train = read_label_table(write(tmp_path, "a 1\nb 2\n"), ["tes"])
    (tmp_path / "test.txt").write_text("c 1\nb 2\n")
    test = read_label_table(tmp_path / "test.txt", ["tes"])
    with pytest.raises(LabelError, match=r"test\.txt, line 2, sample 'b'.*the split train, .*labels\.txt, line 2"):
        check_apart({"train": train, "test": test})


@pytest.mark.parametrize("first", ["dive_1 n/a", "FS_Sp_0001 missing", "001 -"])
def test_a_first_line_that_is_neither_header_nor_sample_is_refused(tmp_path, first):
    (tmp_path / "labels.txt").write_text(f"{first}\ndive_2 7.5\n")
    with pytest.raises(LabelError, match=rf"labels\.txt, line 1: there is no number in '{first}'"):
        read_label_table(tmp_path / "labels.txt", ["score"])


@pytest.mark.parametrize("first", ["sample_id score", "Video_ID Total_Score", "id x", "# Score", "name points"])
def test_a_header_is_known_by_its_titles(tmp_path, first):
    (tmp_path / "labels.txt").write_text(f"{first}\ndive_2 7.5\n")
    assert read_label_table(tmp_path / "labels.txt", ["score"]).sample_ids == ["dive_2"]
