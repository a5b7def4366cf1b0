"""Before training a run says what it is; after it, what to try where ridge regression is far ahead."""

import pytest

from limssr.training.evaluation.results import EvaluationResult, MaskResult, ScoredRow
from limssr.training.fitting.overview import advise, warn_of_few
from limssr.training.fitting.run import describe_run, prepare_run


def test_one_block_says_what_is_about_to_be_trained(quick_arguments, tmp_path, capsys, caplog):
    run = prepare_run(*quick_arguments(missing_rates={"video": 0.5}, seed=3))
    lines = [
        line.split(maxsplit=1) for line in capsys.readouterr().out.replace("language model", "model").splitlines()
    ]
    block = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    assert block["data"] == "synthetic: synthetic performances, seed 0"
    assert block["samples"] == "36 to train, 12 to validate, 21 to test"
    lacking = 1 - sum(mask[0] for mask in run.rows.train.masks) / 36
    assert block["hidden"] == f"for good at video 0.5 (missing in training: video {lacking:.0%}, audio 0%, flow 0%)"
    assert block["model"] == "random weights, qwen3, 1 layer, trained as a whole"
    counts = describe_run(run)["parameters"]
    assert block["parameters"] == f"{counts['trained']:,} of {counts['all']:,} trained"
    assert block["device"].endswith(", 1 process")
    assert block["seed"] == "3, masks 3"  # the masks follow the seed
    assert block["output"] == str(tmp_path / "run")
    assert "12 samples select the best checkpoint" in caplog.text


def test_few_validation_samples_are_warned_of_with_the_numbers():
    assert warn_of_few([30, 400]) is None
    assert warn_of_few([]) is None
    assert warn_of_few([28]).startswith("28 samples select the best checkpoint")
    assert "about 0.20 (in Fisher's z)" in warn_of_few([28])
    assert warn_of_few([40, 12]).startswith("12 samples in the smallest of 2 mask sets select")


@pytest.mark.parametrize(
    ("model", "ridge", "said"),
    [
        ({"spearman": 0.1, "mse": 125.0}, 0.94, ["Spearman 0.940 against 0.100 (video)", "MSE is 125, the training"]),
        ({"spearman": None, "mse": 125.0}, 0.94, ["against 0.000", "`num_train_epochs`, now 2"]),
        ({"spearman": 0.7, "mse": 30.0}, 0.94, ["`language_model_training: frozen`", "36 training samples"]),
        ({"spearman": 0.9, "mse": 30.0}, 0.94, None),
        ({"spearman": 0.1, "mse": 125.0}, None, None),
    ],
)
def test_what_to_try_where_ridge_is_far_ahead(model, ridge, said):
    row = ScoredRow(model=model, ridge=ridge and {"spearman": ridge}, mean_baseline={"mse": 135.0})
    fields = dict.fromkeys(MaskResult.__dataclass_fields__)
    mask = MaskResult(**{**fields, "name": "video", "scores": {"score": row}})
    result = EvaluationResult("subsets", ["video"], ["score"], 21, [mask], {}, [])
    record = {
        "arguments": {"training": {"num_train_epochs": 2.0, "learning_rate": 1e-3}},
        "selection": {"steps": 10},
        "dataset": {"train": {"samples": 36}},
    }
    advice = advise(result, record)
    assert (advice is None) == (said is None)
    assert all(words in advice for words in said or [])
