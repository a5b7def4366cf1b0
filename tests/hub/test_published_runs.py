"""Train, push, and load by name where nothing of this package is installed: the same scores, from every revision."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from limssr import LimssrForScoreRegression, LimssrProcessor
from limssr.training.data import load
from tests.helpers.hub_client import Client
from tests.helpers.loopback_hub import Commit, LoopbackHub

pytestmark = pytest.mark.slow
ADAPTER, FULL = "user/limssr-synthetic", "user/limssr-synthetic-full"
STATE = {"optimizer.safetensors", "optimizer.json", "rng_state.json", "trainer_state.json"}
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # by hand, or by torch.save


@dataclass
class Published:
    """A run whose language model, checkpoints and result are on the Hub: as adapters, and once merged.

    Attributes:
        folder: folder of the run.
        language_model: folder of the language model.
        printed: what `publish.py` printed.
    """

    hub: LoopbackHub
    client: Client
    folder: Path
    language_model: Path
    printed: str

    @property
    def revisions(self) -> list[Commit]:
        """Commits of the adapter, oldest first, without the Hub's own first one."""
        return self.hub.repositories[ADAPTER].history("main")[-2::-1]

    @property
    def variables(self) -> dict[str, str]:
        """Environment of a process that may read the Hub."""
        return {name: self.client.variables[name] for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_DISABLE_XET")}


@pytest.fixture(scope="module")
def published(hub, client, save_language_model, quick_run, tmp_path_factory) -> Published:
    folder, language_model = tmp_path_factory.mktemp("runs") / "synthetic", tmp_path_factory.mktemp("language_model")
    save_language_model(language_model)
    hub.add_repository("someone/tiny-lm", language_model)
    settings = {
        **quick_run,
        "language_model_config": None,
        "language_model": "someone/tiny-lm",
        "lora_rank": 2,
        "num_train_epochs": 3,
        "learning_rate": 0.02,
        "greater_is_better": False,  # the best checkpoint is the first, which a revision must bring along
        "save_total_limit": 3,
        "push_to_hub": True,
        "hub_model_id": ADAPTER,
        "hub_strategy": "every_save",
        "hub_always_push": True,
        "output_dir": str(folder),
    }
    (client.home / "run.yaml").write_text(json.dumps(settings))
    client.script("train.py", "run.yaml")
    printed = client.script("publish.py", folder, "limssr-synthetic-full", "--private")
    return Published(hub, client, folder, language_model, printed)


@pytest.fixture(scope="module")
def features() -> dict[str, list]:
    rows = load("synthetic", samples_train=48, samples_test=21).splits["test"].with_format("torch")
    samples = [rows[index] for index in range(4)]
    available = {"video": (0, 1, 2), "audio": (0, 2, 3), "flow": (0, 1)}
    return {
        name: [torch.as_tensor(row[name]) if index in kept else None for index, row in enumerate(samples)]
        for name, kept in available.items()
    }


def scores_here(folder: Path, language_model: Path, features: dict[str, list]) -> torch.Tensor:
    model = LimssrForScoreRegression.from_pretrained(folder, language_model=language_model)
    with torch.no_grad():
        return model(**LimssrProcessor.from_pretrained(folder)(features=features)).scores


def test_every_revision_scores_the_same_without_this_package_and_then_offline(
    published, features, score_as_a_stranger, run_as_a_stranger, tmp_path
):
    revisions = published.revisions
    assert [commit.title for commit in revisions] == [
        *(f"Training in progress, step {step}" for step in (5, 10, 15)),
        "Training finished",
    ]
    entries = [{"name": ADAPTER, "load": {"revision": commit.oid}} for commit in revisions[:-1]]
    entries += [{"name": ADAPTER}, {"name": ADAPTER, "load": {"cache_dir": str(tmp_path / "cache")}}, {"name": FULL}]
    scores = score_as_a_stranger(entries, features, **published.variables)
    folders = [published.folder / f"checkpoint-{step}" for step in (5, 10, 15)] + [published.folder] * 3
    expected = [scores_here(folder, published.language_model, features) for folder in folders]
    for index, values in enumerate(expected):
        torch.testing.assert_close(scores[str(index)], values, atol=1e-4, rtol=0, msg=str(entries[index]))
    assert len({tuple(values.flatten().tolist()) for values in expected}) == 3  # the best checkpoint, and two others
    assert list((tmp_path / "cache").glob("models--user--limssr-synthetic/snapshots/*/model.safetensors"))

    asked = len(published.hub.requests)
    snippets = [card(published, name).text.split("```python\n")[1].split("```")[0] for name in (ADAPTER, FULL)]
    printed = run_as_a_stranger("-c", "\n".join(snippets), HF_HUB_OFFLINE="1", **published.variables)
    zeros = {"video": [torch.zeros(40, features["video"][0].shape[1])], "audio": [None], "flow": [None]}
    expected = scores_here(published.folder, published.language_model, zeros).item()
    scores = [float(score) for score in re.findall(r"tensor\(\[\[([\d.]+)\]\]", printed)]
    assert scores == pytest.approx([expected] * 2, abs=1e-3)
    assert len(published.hub.requests) == asked


def test_a_revision_holds_all_it_needs_and_training_state_only_while_training(published):
    for commit in published.revisions:
        names = set(commit.files)
        assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= names
        assert {"modeling_limssr.py", "processing_limssr.py", "configuration_limssr.py", "run.json"} <= names
        finished = commit.title == "Training finished"
        assert STATE.isdisjoint(names) if finished else names >= STATE
        assert ({"metrics.json", "curve.png", "evaluation.png"} <= names) == finished
        assert ("best/model.safetensors" in names) == commit.title.endswith(("step 10", "step 15"))
    assert published.hub.repositories[FULL].private
    assert published.printed.strip().endswith(f"/{FULL}/commit/{published.hub.repositories[FULL].find('main').oid}")


def test_no_pickle_no_token_and_no_path_ever_reached_the_hub(published):
    for name in (ADAPTER, FULL):
        paths = {path for commit in published.hub.repositories[name].commits.values() for path in commit.files}
        assert {Path(path).suffix for path in paths} - {""} == {".safetensors", ".json", ".py", ".md", ".png"}
    assert len(published.hub.blobs) > 40
    for blob in published.hub.blobs.values():
        assert not blob.startswith(PICKLES)
        assert b"hf_writer" not in blob
        assert str(published.folder.parent).encode() not in blob


def card(published: Published, name: str, revision: str = "main") -> ModelCard:
    return ModelCard(published.hub.content(name, "README.md", revision).decode())


def test_the_card_reports_what_happened(published):
    for name, relation in ((ADAPTER, "adapter"), (FULL, "finetune")):
        finished = card(published, name)
        metrics = json.loads(published.hub.content(name, "metrics.json"))
        values = {entry.metric_name: entry.metric_value for entry in finished.data.eval_results}
        for mask in metrics["masks"]:
            model = mask["scores"]["score"]["model"]
            assert values[f"mean squared error, score from {mask['name']}"] == model["mse"]
            assert re.search(rf"\| {re.escape(mask['name'])} +\| +21 \|", finished.text)
        assert (finished.data.base_model, finished.data.base_model_relation) == ("someone/tiny-lm", relation)
        assert "![learning curve" in finished.text
        assert "36 train, 12 validation, 21 test samples" in finished.text
        assert "static, missing rate 0.3" in finished.text
        assert "LoRA of rank 2" in finished.text
        assert "| `learning_rate` | 0.02 |" in finished.text
        assert "transformers 5" in finished.text
        assert f'from_pretrained("{name}", trust_remote_code=True)' in finished.text
    for commit in published.revisions[:-1]:
        training = card(published, ADAPTER, commit.oid)
        step = commit.title.rpartition(" ")[2]
        assert f"**Training in progress**: step {step} of 15, Spearman" in training.text
        assert training.data.eval_results is None


def test_training_goes_on_from_the_hub_as_if_it_had_never_stopped(published, client):
    revision = published.revisions[1].oid
    words = ["--resume_from_checkpoint", f"{ADAPTER}@{revision}", "--output_dir", "resumed", "--push_to_hub", "false"]
    client.script("train.py", "run.yaml", *words)
    resumed = client.home / "resumed"
    for name in ("model.safetensors", "checkpoint-15/model.safetensors", "checkpoint-15/optimizer.safetensors"):
        expected, found = load_file(published.folder / name), load_file(resumed / name)
        assert expected.keys() == found.keys()
        assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    states = [
        json.loads((folder / "checkpoint-15" / "trainer_state.json").read_text())
        for folder in (published.folder, resumed)
    ]
    assert [state["best_global_step"] for state in states] == [5, 5]
    validations = [[entry["eval_mse"] for entry in state["log_history"] if "eval_mse" in entry] for state in states]
    assert validations[0] == validations[1]
