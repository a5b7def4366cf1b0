import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from limssr.training.data.aqa_data import target_columns
from limssr.training.data.masked_dataset import MaskedDataset
from limssr.training.data.masks import all_subsets
from limssr.training.evaluation.baselines import RIDGE_ALPHAS, Baselines, pool_rows

MODALITIES = ["video", "audio"]


def ridge_scores(baselines, pooled, mask):
    """(rows, scores), each row from what it has of the mask."""
    return baselines.ridge_predictions(pooled, pooled.available & np.array(mask, dtype=bool), mask)


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    rows = []
    for number in range(60):
        quality = random.normal()
        video = quality + random.normal(size=(random.integers(2, 6), 4)) * 0.5
        audio = quality + random.normal(size=(random.integers(1, 4), 3)) * 2
        rows.append({"sample_id": f"s{number}", "video": video, "audio": audio, "score": 50 + 10 * quality})
    return rows


def test_pooling_gives_mean_and_maximum_over_clips():
    rows = [{"sample_id": "a", "video": [[1.0, 5.0], [3.0, 1.0]], "audio": None, "score": 2.0}]
    pooled = pool_rows(rows, MODALITIES, ["score"])
    np.testing.assert_allclose(pooled.features["video"], [[2.0, 3.0, 3.0, 5.0]])
    np.testing.assert_array_equal(pooled.available, [[True, False]])
    assert pooled.targets.tolist() == [[2.0]]


def test_ridge_is_leave_one_out_ridge_on_standardised_features(rows):
    baselines = Baselines(rows[:40], MODALITIES, ["score"])
    pooled = pool_rows(rows, MODALITIES, ["score"])
    features = np.concatenate([pooled.features["video"], pooled.features["audio"]], axis=1)
    scaler = StandardScaler().fit(features[:40])
    ridge = RidgeCV(alphas=RIDGE_ALPHAS).fit(scaler.transform(features[:40]), pooled.targets[:40, 0])
    expected = ridge.predict(scaler.transform(features))
    np.testing.assert_allclose(ridge_scores(baselines, pooled, (1, 1))[:, 0], expected, atol=1e-8)


def test_the_mean_baseline_is_the_training_mean_of_the_given_targets(rows):
    rows[3]["score"] = None
    rows[4]["score"] = float("nan")
    baselines = Baselines(rows, MODALITIES, ["score"])
    given = [row["score"] for number, row in enumerate(rows) if number not in (3, 4)]
    np.testing.assert_allclose(baselines.mean_predictions(2), np.full((2, 1), np.mean(given)))


def test_rows_that_lack_a_modality_of_the_mask_do_not_enter_its_fit(rows):
    complete_only = Baselines(rows[:30], MODALITIES, ["score"]).models[(1, 1)][0]
    hidden = [{**row, "audio": None} for row in rows[30:]]
    with_hidden = Baselines(rows[:30] + hidden, MODALITIES, ["score"]).models[(1, 1)][0]
    np.testing.assert_allclose(with_hidden.ridge.coef_, complete_only.ridge.coef_)


def test_too_few_rows_make_the_ridge_unavailable_with_a_reason(rows):
    train = rows[:9] + [{**row, "audio": None} for row in rows[9:]]
    baselines = Baselines(train, MODALITIES, ["score"])
    assert "9 training rows have video+audio" in baselines.reasons[(1, 1)][0]
    assert baselines.reasons[(1, 0)] == (None,)
    pooled = pool_rows(rows, MODALITIES, ["score"])
    assert np.isnan(ridge_scores(baselines, pooled, (1, 1))).all()
    assert np.isfinite(ridge_scores(baselines, pooled, (1, 0))).all()


def test_a_row_with_less_than_the_mask_is_scored_from_what_it_has(rows):
    baselines = Baselines(rows, MODALITIES, ["score"])
    lacking = pool_rows([{**rows[0], "audio": None}, rows[1]], MODALITIES, ["score"])
    both = ridge_scores(baselines, lacking, (1, 1))
    assert both[0, 0] == pytest.approx(ridge_scores(baselines, lacking, (1, 0))[0, 0])
    assert both[1, 0] != pytest.approx(ridge_scores(baselines, lacking, (1, 0))[1, 0])


def test_each_score_has_its_own_ridge_and_its_own_missing_targets(rows):
    for number, row in enumerate(rows):
        row["execution"] = -row["score"] if number % 2 else float("nan")
    baselines = Baselines(rows, MODALITIES, ["score", "execution"])
    predictions = ridge_scores(baselines, pool_rows(rows, MODALITIES, ["score", "execution"]), (1, 1))
    assert np.corrcoef(predictions[:, 0], predictions[:, 1])[0, 1] < -0.9


def test_static_masks_hide_features_from_the_ridge_too(rows):
    plain = [
        {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in r.items()} for r in rows
    ]
    clips = {name: List(List(Value("float32"), length=size)) for name, size in (("video", 4), ("audio", 3))}
    features = Features({"sample_id": Value("string"), **clips, "score": Value("float32")})
    masks = [(1, 0) if number % 2 else (0, 1) for number in range(len(rows))]
    masked = MaskedDataset(Dataset.from_list(plain, features=features), MODALITIES, masks)
    baselines = Baselines(masked, MODALITIES, ["score"])
    assert {mask for mask in all_subsets(2) if baselines.models[mask][0] is None} == {(1, 1)}


def test_one_score_may_lie_in_the_column_score():
    assert target_columns(["sample_id", "score"], ["TES"]) == ["score"]
    assert target_columns(["sample_id", "score", "TES"], ["TES"]) == ["TES"]
    with pytest.raises(ValueError, match="PCS"):
        target_columns(["sample_id", "TES"], ["TES", "PCS"])


WORDS = {"good": "a very clean entry", "poor": "over on the entry"}


@pytest.fixture
def text_rows():
    random = np.random.default_rng(0)
    rows = []
    for number in range(40):
        kind, attribute = random.choice(list(WORDS)), random.normal()
        text = f"{WORDS[kind]} dive {number}"
        rows.append(
            {
                "sample_id": f"s{number}",
                "commentary": text,
                "dive": np.full((1, 2), attribute),
                "score": 50 + 20 * (kind == "good") + 5 * attribute,
            }
        )
    return rows


def test_ridge_reads_the_words_of_a_text_beside_other_features(text_rows):
    modalities = ["commentary", "dive"]
    baselines = Baselines(text_rows[:30], modalities, ["score"])
    test = pool_rows(text_rows[30:], modalities, ["score"])
    errors = {mask: np.abs(ridge_scores(baselines, test, mask) - test.targets).mean() for mask in all_subsets(2)}
    assert errors[1, 1] < 1
    assert errors[1, 0] < 6  # the words alone leave the attribute unknown
    assert errors[0, 1] > 6


def test_ridge_on_text_is_scikit_learns_on_tf_idf(text_rows):
    baselines = Baselines(text_rows, ["commentary"], ["score"])
    pooled = pool_rows(text_rows, ["commentary"], ["score"])
    texts, scores = [row["commentary"] for row in text_rows], [row["score"] for row in text_rows]
    reader = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    expected = make_pipeline(reader, RidgeCV(alphas=RIDGE_ALPHAS)).fit(texts, scores).predict(texts)
    np.testing.assert_allclose(ridge_scores(baselines, pooled, (1,))[:, 0], expected, rtol=1e-6)


def test_a_text_may_be_missing_and_texts_without_common_words_have_no_ridge(text_rows):
    rows = [{**row, "commentary": None} if number % 2 else row for number, row in enumerate(text_rows)]
    pooled = pool_rows(rows, ["commentary", "dive"], ["score"])
    assert pooled.available[:, 0].tolist() == [True, False] * 20
    baselines = Baselines(rows, ["commentary", "dive"], ["score"])
    assert np.isfinite(ridge_scores(baselines, pooled, (1, 1))).all()
    strange = [{**row, "commentary": f"word{number}"} for number, row in enumerate(text_rows)]
    baselines = Baselines(strange, ["commentary"], ["score"])
    assert baselines.reasons[(1,)] == ("no word occurs in two of the training texts",)
