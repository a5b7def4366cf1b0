"""The real annotations, transcripts and split of MTL-AQA."""

import itertools
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limssr.training.arguments import parse_training_arguments
from limssr.training.data import load
from limssr.training.data.masked_dataset import MaskedDataset
from limssr.training.data.masks import available_masks
from limssr.training.data.mtl_aqa import FILES, REMOVED_WORDS, clean_transcript, difficulty_shares
from limssr.training.data.sources.pickles import load_restricted
from limssr.training.fitting.run import run_training


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(shared):
    return shared / "data" / "mtl_aqa"


@pytest.fixture
def load_mtl_aqa(folder, tiny_encoder, cache):
    return lambda **options: load(
        "mtl_aqa", **{"folder": folder, "text_encoder": str(tiny_encoder), "cache_dir": cache, **options}
    )


@given(st.lists(st.one_of(st.text(min_size=1), st.sampled_from(sorted(REMOVED_WORDS)).map(str.title))))
def test_a_clean_transcript_says_no_number(words):
    clean = clean_transcript(words)
    assert not any(character.isdigit() and character.isdecimal() for word in clean for character in word)
    assert REMOVED_WORDS.isdisjoint(clean)
    assert all(word == word.lower() for word in clean)
    kept = [word for word in words if word.lower() in clean]
    assert [word.lower() for word in kept] == clean


@given(st.lists(st.from_regex(r"[a-z']{1,8}", fullmatch=True)))
def test_other_words_are_kept_in_order(words):
    assert clean_transcript(words) == [word for word in words if word not in REMOVED_WORDS]


def test_scores_are_removed_from_a_transcript():
    said = ["Nice", "TUCK", "the", "Score", "57", "point", "75", "for", "80s", "half", "a", "Mark", "Oh", "9.5", "b2b"]
    assert clean_transcript(said) == ["nice", "tuck", "the", "for", "a"]


def test_official_split_has_the_known_counts_and_features(load_mtl_aqa):
    data = load_mtl_aqa()
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 1059, "test": 353}
    assert data.modalities == {"commentary": 8, "dive": 27}
    assert (data.score_names, data.score_minimums, data.score_ranges) == (["score"], [0.0], [104.5])
    assert not data.leaky
    test = data.splits["test"]
    scores = np.concatenate([rows["score"][:] for rows in data.splits.values()])
    assert (scores.min(), scores.max()) == (0, 104.5)
    dives = np.array(test["dive"])  # (samples, clips, dim)
    assert dives.shape == (353, 5, 27)
    np.testing.assert_array_equal(dives.sum(axis=-1), 1)  # one value of each attribute
    own_columns = np.cumsum([0, 3, 2, 4, 10, 8])
    for attribute, (first, end) in enumerate(itertools.pairwise(own_columns)):
        np.testing.assert_array_equal(dives[:, attribute, first:end].sum(axis=-1), 1)
    lengths = np.array([len(clips) for clips in data.splits["train"]["commentary"]])
    assert 20 < np.median(lengths) < 40
    assert np.mean(lengths <= data.max_clips) > 0.98


def test_the_difficulty_is_one_clip_more_of_the_dive(load_mtl_aqa):
    without, data = load_mtl_aqa(), load_mtl_aqa(dive_difficulty=True)
    assert data.modalities == {"commentary": 8, "dive": 34}
    assert "dives with their difficulty" in data.description
    for name, rows in data.splits.items():
        dives = np.array(rows["dive"])  # (samples, clips, dim)
        assert dives.shape == (len(rows), 6, 34)
        np.testing.assert_array_equal(dives[:, :5, :27], without.splits[name]["dive"])
        assert not dives[:, :5, 27:].any()
        assert not dives[:, 5, :27].any()
        shares = dives[:, 5, 27:]
        np.testing.assert_allclose(shares.sum(axis=-1), 1, atol=1e-6)
        assert ((shares > 0).sum(axis=-1) <= 2).all()
        np.testing.assert_allclose(shares @ [1.5, 2, 2.5, 3, 3.5, 4, 4.5], rows["difficulty"], atol=1e-5)


@pytest.mark.parametrize("difficulty", [1.4, 4.6, float("nan")])
def test_an_impossible_difficulty_is_refused(difficulty):
    with pytest.raises(ValueError, match=r"dive 01_002: difficulty is .*, expected a number from 1\.5 to 4\.5"):
        difficulty_shares(difficulty, "01_002")


def test_the_first_test_dive_is_that_of_the_files(load_mtl_aqa, folder):
    row = load_mtl_aqa(scores=["score", "execution"]).splits["test"][0]
    annotation = load_restricted(folder / FILES["annotations"])[26, 4]
    assert row["sample_id"] == "26_004"
    assert row["competition"] == 26
    assert row["score"] == pytest.approx(annotation["final_score"])
    assert row["difficulty"] == pytest.approx(annotation["difficulty"])
    assert row["execution"] == pytest.approx(annotation["final_score"] / annotation["difficulty"], rel=1e-6)
    words = row["commentary_text"].split()
    assert len(row["commentary"]) == -(-len(words) // 3)
    assert "<sos>" not in words
    assert REMOVED_WORDS.isdisjoint(words)
    position, armstand, rotation, somersaults, twists = np.split(np.sum(row["dive"], axis=0), [3, 5, 9, 19])
    found = [int(part.argmax()) for part in (position, armstand, rotation, somersaults, twists)]
    assert found == [annotation[name] for name in ("position", "armstand", "rotation_type", "ss_no", "tw_no")]


def test_held_out_split_shares_no_competition(load_mtl_aqa):
    official, held_out = load_mtl_aqa(), load_mtl_aqa(split="competitions_held_out")
    ids = [
        sorted(sample_id for rows in data.splits.values() for sample_id in rows["sample_id"])
        for data in (official, held_out)
    ]
    assert ids[0] == ids[1]
    train, test = (set(held_out.splits[name]["competition"]) for name in ("train", "test"))
    assert train.isdisjoint(test)
    assert set(official.splits["test"]["competition"]) <= set(official.splits["train"]["competition"])
    assert {name: len(rows) for name, rows in held_out.splits.items()} == {"train": 1073, "test": 339}
    masked = MaskedDataset(held_out.splits["test"], ["commentary", "dive"], [(0, 1)] * 339)
    assert masked[5]["commentary"] is None
    np.testing.assert_array_equal(masked[5]["dive"], held_out.splits["test"][5]["dive"])


def test_execution_stays_within_its_range(load_mtl_aqa):
    data = load_mtl_aqa(scores=["execution"])
    execution = np.concatenate([rows["execution"][:] for rows in data.splits.values()])
    assert execution.min() == 0
    assert execution.max() == pytest.approx(29)
    assert data.score_ranges == [30.0]


def test_raw_commentary_speaks_the_label_and_is_marked(load_mtl_aqa):
    data = load_mtl_aqa(commentary="raw")
    assert data.leaky
    assert "raw" in data.description
    assert any(character.isdigit() for text in data.splits["test"]["commentary_text"] for character in text)


def test_a_clone_of_the_repository_and_a_flat_copy_are_the_same(load_mtl_aqa, folder, tmp_path):
    flat = load_mtl_aqa()
    place = tmp_path / "Ready_2_Use" / "MTL-AQA_split_0_data"
    place.mkdir(parents=True)
    for name in FILES.values():
        shutil.copy(folder / name, place)
    clone = load_mtl_aqa(folder=tmp_path)
    assert clone.splits["test"].to_dict() == flat.splits["test"].to_dict()


def test_a_transcript_of_scores_alone_is_a_missing_commentary(load_mtl_aqa, folder, tmp_path):
    for name in FILES.values():
        shutil.copy(folder / name, tmp_path)
    captions = load_restricted(folder / FILES["captions"])
    captions[26, 4] = ["<sos>", "Score", "57", "point", "75", "<eos>"]
    os.chmod(tmp_path / FILES["captions"], 0o600)
    (tmp_path / FILES["captions"]).write_bytes(pickle.dumps(captions))
    rows = load_mtl_aqa(folder=tmp_path).splits["test"]
    assert rows[0]["commentary"] is None
    assert available_masks(rows, ["commentary", "dive"])[:2] == [(0, 1), (1, 1)]


def test_a_wrong_number_of_dives_is_refused(load_mtl_aqa, folder, tmp_path):
    for name in FILES.values():
        shutil.copyfile(folder / name, tmp_path / name)
    (tmp_path / FILES["test"]).write_bytes(pickle.dumps([(26, 4)]))
    with pytest.raises(ValueError, match="1059 training and 1 test dives, expected 1059 and 353"):
        load_mtl_aqa(folder=tmp_path)


def test_a_hostile_file_is_refused(load_mtl_aqa, folder, tmp_path):
    for name in FILES.values():
        shutil.copyfile(folder / name, tmp_path / name)
    (tmp_path / FILES["captions"]).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(pickle.UnpicklingError, match=r"final_captions_dict.*os\.system"):
        load_mtl_aqa(folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "random"}, "split is 'random', allowed: official, competitions_held_out"),
        ({"commentary": "words"}, "commentary is 'words', allowed: clean, raw, text"),
        ({"scores": ["difficulty"]}, r"scores is \['difficulty'\], allowed: one or more of score, execution"),
        ({"scores": []}, "scores is"),
    ],
)
def test_impossible_options_are_refused(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        load("mtl_aqa", folder=tmp_path, **options)


def test_one_layer_of_the_encoder_needs_no_list(load_mtl_aqa):
    alone, listed = (load_mtl_aqa(encoder_layers=layers).splits["test"] for layers in (0, [0]))
    assert alone["commentary"][0] == listed["commentary"][0]


def test_an_empty_folder_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"final_annotations_dict\.pkl.*clone"):
        load("mtl_aqa", folder=tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "mtl_aqa",
        "mtl_aqa_schedule_free",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mtl_aqa_text", "mtl_aqa_text_full")),
    ],
)
def test_its_settings_train(name, folder, tiny_encoder, cache, tiny_language_model, tmp_path):
    path = Path(__file__).parents[2] / "training" / "configs" / f"{name}.yaml"
    options = [f"folder={folder}", f"text_encoder={tiny_encoder}", f"cache_dir={cache}"]
    options.append("encoder_layers=[0,1]")  # the tiny encoder has no third
    flags = f"--language_model {tiny_language_model} --output_dir {tmp_path} --max_steps 2"
    flags += " --disable_tqdm true --report_to none"
    result = run_training(*parse_training_arguments([str(path), "--data_options", *options, *flags.split()]))
    assert [mask.name for mask in result.masks] == ["commentary+dive", "commentary", "dive"]
    assert result.score_names == ["score"]
    assert result.samples == 353


def test_commentary_as_text_is_the_clean_transcript_itself(load_mtl_aqa):
    data, features = load_mtl_aqa(commentary="text"), load_mtl_aqa()
    assert data.modalities == {"commentary": "text", "dive": 27}
    assert not data.leaky
    for name, rows in data.splits.items():
        assert rows["commentary"][:] == rows["commentary_text"][:] == features.splits[name]["commentary_text"][:]
    masked = MaskedDataset(data.splits["test"], ["commentary", "dive"], [(1, 0)] * 353)
    assert masked[3]["commentary"] == data.splits["test"][3]["commentary_text"]
    assert masked[3]["dive"] is None
    assert MaskedDataset(data.splits["test"], ["commentary", "dive"], [(0, 1)] * 353)[3]["commentary"] is None
