"""Failures on the way to the Hub have readable errors and change nothing, and a repeat succeeds."""

import hashlib
import json
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limssr import LimssrForScoreRegression, LimssrProcessor
from limssr.modeling_limssr.language_model_limssr import CHECKPOINT_SUBFOLDER
from limssr.training import publish
from tests.helpers.hub_client import TRAINING
from tests.helpers.loopback_hub import Fault

NAME = "user/limssr-diving"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_language_model, tiny_tokenizer, hub) -> Path:
    """An adapter of a language model on the Hub, as `save_pretrained` leaves it, beside files that stay here."""
    folder, language_model = tmp_path_factory.mktemp("runs") / "diving", tmp_path_factory.mktemp("language_model")
    hub.add_repository("someone/tiny-lm", save_language_model(language_model))
    torch.manual_seed(0)
    model = LimssrForScoreRegression.from_language_model(
        language_model, modalities={"video": 16, "flow": 8}, lora_rank=2
    )
    revision = hub.repositories["someone/tiny-lm"].find("main").oid
    model.config.language_model_source = {
        "repository": "someone/tiny-lm",
        "revision": revision,
    } | model.config.language_model_source
    model.save_pretrained(folder, form="adapter")
    LimssrProcessor.from_config(model.config, tiny_tokenizer).save_pretrained(folder)
    for name in ("training_args.bin", "optimizer.pt", "predictions.parquet", "notes.txt"):
        (folder / name).write_bytes(b"\x80\x04 never to be seen")
    return folder


@pytest.fixture
def unchanged(folder):
    """The folder is the same after the test, to the byte."""
    digests = lambda: {  # noqa: E731
        file: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()
    }
    before = digests()
    yield
    assert digests() == before


def files_on(hub, name: str) -> set[str]:
    return set(hub.repositories[name].find("main").files)


@pytest.mark.usefixtures("unchanged")
class TestPublishing:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"token": "hf_wrong"}, f"HubError: cannot push to {NAME}: the Hub does not know the token"),
            ({"token": "hf_reader"}, f"HubError: cannot push to {NAME}: the token does not permit it"),
            ({"repo_id": "someone/theirs"}, "HubError: cannot push to someone/theirs: the token does not permit it"),
            ({"repo_id": "no such name"}, "HFValidationError: Repo id must use alphanumeric"),
            ({"folder": "/nowhere"}, "FileNotFoundError: /nowhere holds no config.json; give the folder of a trained"),
        ],
    )
    def test_what_is_not_permitted_changes_nothing(self, call, hub, folder, arguments, message):
        assert call("publish", **{"folder": folder, "repo_id": NAME, **arguments}).startswith(message)
        assert NAME not in hub.repositories

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (Fault("POST", "/commit/"), "the connection to the Hub failed ("),
            (Fault("POST", "/commit/", 500), "the Hub has trouble of its own (500: Internal Error"),
            (Fault("POST", "/repos/create", 502), "the Hub has trouble of its own (502: "),
        ],
        ids=["connection dropped", "server error", "no repository"],
    )
    def test_a_repeat_succeeds_and_uploads_no_weights_twice(self, call, hub, folder, fault, message):
        name = f"user/limssr-{fault.status}"
        hub.faults.append(fault)
        error = call("publish", folder=folder, repo_id=name, adapter=True)
        assert error.startswith(f"HubError: cannot push to {name}: {message}")
        assert name not in hub.repositories or files_on(hub, name) == {".gitattributes"}
        uploads = hub.count("PUT", "/lfs/")
        assert call("publish", folder=folder, repo_id=name, adapter=True).startswith(f"{hub.endpoint}/{name}/commit/")
        assert hub.count("PUT", "/lfs/") == uploads + (fault.path == "/repos/create" and uploads == 0)
        assert {"model.safetensors", "README.md", "processor_config.json"} <= files_on(hub, name)
        assert {"training_args.bin", "optimizer.pt", "predictions.parquet", "notes.txt"}.isdisjoint(
            files_on(hub, name)
        )

    def test_a_connection_dropped_in_the_middle_of_the_weights_is_taken_up_again(self, call, hub, folder):
        hub.faults.append(Fault("PUT", "/lfs/"))
        assert call("publish", folder=folder, repo_id=NAME).startswith(hub.endpoint)  # joined: other weights
        assert not hub.faults[-1].times
        assert json.loads(hub.content(NAME, "config.json"))["checkpoint_form"] == "full"

    def test_an_existing_repository_gets_a_new_revision_and_keeps_what_is_not_ours(self, call, hub, folder):
        repository = hub.repositories[NAME]
        extra = {name: hub.store(b"kept", is_lfs=False) for name in ("notes.md", "logo.png")}
        stale = {"model-00001-of-00002.safetensors": hub.store(b"stale", is_lfs=True)}
        earlier = repository.commit("main", "by hand", "user", {**repository.find("main").files, **extra, **stale})
        assert call("publish", folder=folder, repo_id=NAME, adapter=True).startswith(hub.endpoint)
        assert repository.find("main").parent == earlier.oid
        assert files_on(hub, NAME) == set(earlier.files) - set(stale)
        assert json.loads(hub.content(NAME, "config.json"))["checkpoint_form"] == "adapter"
        assert hub.content(NAME, "notes.md") == b"kept"

    def test_a_public_repository_is_not_taken_for_a_private_one(self, call, hub, folder):
        head = hub.repositories[NAME].branches["main"]
        error = call("publish", folder=folder, repo_id=NAME, private=True)
        assert error.startswith(f"ValueError: {NAME} exists and is public; make it private on the Hub")
        assert hub.repositories[NAME].branches["main"] == head

    def test_a_repository_with_another_kind_of_model_is_left_alone(self, call, hub, folder, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        hub.add_repository("user/bert", tmp_path)
        error = call("publish", folder=folder, repo_id="user/bert")
        assert error == "ValueError: user/bert holds a model of type 'bert', expected 'limssr'; give another name."

    def test_a_card_that_somebody_edited_keeps_its_words(self, call, hub, folder, tmp_path):
        edited = tmp_path / "edited"
        edited.mkdir()
        for file in folder.iterdir():
            (edited / file.name).write_bytes(file.read_bytes())
        text = hub.content(NAME, "README.md").decode().replace("## Limits", "## Limits\n\nOurs, by hand.")
        (edited / "README.md").write_text(text)
        call("publish", folder=edited, repo_id="user/limssr-edited", adapter=True)
        published = hub.content("user/limssr-edited", "README.md").decode()
        assert published == text.replace(f'"{NAME}"', '"user/limssr-edited"')


def test_an_adapter_may_carry_its_language_model(call, hub, folder, tmp_path, save_language_model):
    carried = tmp_path / "carried"
    shutil.copytree(folder, carried)
    save_language_model(carried / CHECKPOINT_SUBFOLDER)
    config = json.loads((carried / "config.json").read_text())
    digests = config["language_model_source"]["sha256"]
    (carried / "config.json").write_text(
        json.dumps({**config, "language_model_source": {"subfolder": CHECKPOINT_SUBFOLDER, "sha256": digests}})
    )
    name, again = "user/limssr-carried", tmp_path / "again"
    call("publish", folder=carried, repo_id=name, adapter=True)
    assert f"{CHECKPOINT_SUBFOLDER}/model.safetensors" in files_on(hub, name)
    call("save_and_push", folder=name, again=again, repo_id="user/limssr-again")  # which loads it from the Hub
    call("publish", folder=carried, repo_id=name)
    assert not [path for path in files_on(hub, name) if path.startswith(f"{CHECKPOINT_SUBFOLDER}/")]
    assert hub.content(name, "model.safetensors") == (again / "model.safetensors").read_bytes()


def test_save_pretrained_pushes_no_pickle_either(call, hub, folder, tmp_path):
    again = tmp_path / "again"
    (again / "checkpoint-1").mkdir(parents=True)
    for name in ("training_args.bin", "optimizer.safetensors", "checkpoint-1/model.safetensors"):
        (again / name).write_bytes(b"\x80\x04 never to be seen")
    call("save_and_push", folder=folder, again=again, repo_id="user/limssr-saved", revision="next")
    repository = hub.repositories["user/limssr-saved"]
    files = set(repository.find("next").files) - {".gitattributes"}
    assert {"model.safetensors", "config.json", "modeling_limssr.py"} <= files
    assert files <= {file.name for file in again.iterdir()} - {"training_args.bin", "optimizer.safetensors"}
    assert set(repository.find("main").files) == {".gitattributes"}


def test_the_script_ends_with_the_message_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["publish.py", str(tmp_path), "user/any"])
    with pytest.raises(SystemExit, match=r"^publish\.py: .* holds no config\.json; give the folder of a trained"):
        publish.main()


def test_no_adapter_comes_out_of_a_full_model(call, folder, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "config.json").write_text((folder / "config.json").read_text().replace('"adapter"', '"full"'))
    assert call("publish", folder=full, repo_id=NAME, adapter=True).startswith(
        f"ValueError: {full} holds a full model"
    )


def test_weights_cut_short_or_not_finite_are_not_published(call, folder, hub, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    tensors["reasoning_weight"][0] = torch.inf
    save_file(tensors, weights)
    error = call("publish", folder=tmp_path, repo_id=NAME, adapter=True)
    assert error.startswith("ValueError: model.safetensors is not published: reasoning_weight is not finite")
    weights.write_bytes(weights.read_bytes()[:-10])
    error = call("publish", folder=tmp_path, repo_id=NAME, adapter=True)
    assert error.startswith("ValueError: model.safetensors is no complete safetensors file")


def test_training_cannot_go_on_from_a_finished_model(call, hub, tmp_path):
    error = call("fetch_checkpoint", name=NAME, output_dir=tmp_path / "run")
    assert error.startswith(f"FileNotFoundError: {NAME} holds a model but no training to go on with.")
    error = call("fetch_checkpoint", name=f"{NAME}@never", output_dir=tmp_path / "run")
    assert error.startswith(f"HubError: {NAME}@never is no folder here, and cannot be fetched from the Hub: 404")
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    error = call("fetch_checkpoint", name=NAME, output_dir=tmp_path / "run")
    assert "checkpoint-3 exists already: go on with `--resume_from_checkpoint last`" in error


@pytest.mark.parametrize(
    "changes",
    [
        {"global_step": "1/../../../ESCAPED"},
        {"global_step": True},
        {"global_step": -1},
        {"best_global_step": "../x"},
        {"log_history": [["step", 3]]},
        {"epoch": "1"},
        {"__class__": "x"},
    ],
    ids=str,
)
def test_a_state_that_no_trainer_wrote_is_refused_and_writes_nothing(call, hub, folder, tmp_path, changes):
    evil = tmp_path / "evil"
    shutil.copytree(folder, evil)
    state = {"global_step": 3, "max_steps": 5, "num_train_epochs": 1, "log_history": []}
    (evil / "trainer_state.json").write_text(json.dumps(state | changes))
    (evil / "optimizer.safetensors").write_bytes(b"")
    (evil / "__init__.py").write_text("raise SystemExit")
    name = f"user/evil-{hashlib.sha256(str(changes).encode()).hexdigest()[:8]}"
    hub.add_repository(name, evil)
    before = set(tmp_path.rglob("*"))
    error = call("fetch_checkpoint", name=name, output_dir=tmp_path / "deep" / "run")
    assert error.startswith(f"ValueError: {name} is no checkpoint to go on with: trainer_state.json is damaged (")
    assert set(tmp_path.rglob("*")) == before


def test_code_of_others_is_not_fetched_with_a_checkpoint(call, hub, folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    state = {"global_step": 3, "max_steps": 5, "num_train_epochs": 1, "log_history": []}
    (other / "trainer_state.json").write_text(json.dumps(state))
    (other / "optimizer.safetensors").write_bytes(b"")
    (other / "__init__.py").write_text("raise SystemExit")
    hub.add_repository("user/code", other)
    assert call("fetch_checkpoint", name="user/code", output_dir=tmp_path / "run").endswith("run/checkpoint-3")
    assert not list((tmp_path / "run").rglob("*.py"))
    assert (tmp_path / "run" / "checkpoint-3" / "manifest.json").is_file()


def test_links_are_never_published(call, hub, folder, tmp_path):
    linked = tmp_path / "linked"
    shutil.copytree(folder, linked)
    (tmp_path / "secret.json").write_text('{"secret": true}')
    (linked / "notes.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key.json").write_text('{"secret": true}')
    (linked / "best").symlink_to(tmp_path / "private")
    assert call("publish", folder=linked, repo_id="user/linked", adapter=True).startswith(hub.endpoint)
    assert not {"notes.json", "best/key.json"} & files_on(hub, "user/linked")


@pytest.fixture
def settings(client, quick_run, tmp_path) -> Path:
    """A run that pushes each checkpoint of a language model trained as a whole to a branch."""
    pushes = {"push_to_hub": True, "hub_strategy": "every_save", "hub_always_push": True, "hub_revision": "next"}
    path = tmp_path / "run.yaml"
    path.write_text(
        json.dumps({**quick_run, **pushes, "hub_model_id": "user/whole", "output_dir": str(tmp_path / "run")})
    )
    return path


def test_a_wrong_token_ends_a_run_before_it_begins(call, settings):
    error = call("prepare", words=[str(settings), "--hub_token", "hf_wrong"])
    assert error.startswith("HubError: cannot push to user/whole: the Hub does not know the token")


def test_checkpoints_that_nobody_could_load_are_refused_before_training(call, settings, tmp_path, save_language_model):
    save_language_model(tmp_path / "local")
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "language_model_config": None}))
    error = call("prepare", words=[str(settings), "--language_model", str(tmp_path / "local")])
    assert error.startswith("ValueError: `hub_strategy` is 'every_save', but checkpoints are adapters of a language")


@pytest.mark.slow
def test_training_goes_on_where_a_push_fails_and_loses_nothing(hub, client, call, settings, tmp_path):
    hub.faults.append(Fault("POST", "/user/whole/commit/", 500, times=3))  # two checkpoints and the end
    error = client.script("train.py", settings, fails=True)
    assert error.count("Training goes on; the checkpoint is in") == 2
    last = error.splitlines()[-1]
    assert last.startswith("train.py: cannot push to user/whole: the Hub has trouble of its own (500: Internal Error")
    assert last.endswith(f"push again: python {TRAINING / 'publish.py'} {tmp_path / 'run'} user/whole")
    assert files_on(hub, "user/whole") == {".gitattributes"}
    assert not list((tmp_path / "run").glob(".writing-*"))
    assert call("publish", folder=tmp_path / "run", repo_id="user/whole").startswith(hub.endpoint)
    assert {"model.safetensors", "metrics.json", "README.md"} <= files_on(hub, "user/whole")


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_on_its_way(hub, client, settings, tmp_path, quick_run):
    arrived = threading.Event()
    hub.faults.append(Fault("POST", "/user/held/commit/", until=arrived))
    name, epochs = "user/held", quick_run["num_train_epochs"]
    training = client.start(TRAINING / "train.py", settings, "--hub_model_id", name)
    saved = lambda: list((tmp_path / "run").glob("checkpoint-*/trainer_state.json"))  # noqa: E731
    try:
        give_up = time.monotonic() + 120
        while not (hub.count("POST", f"/{name}/commit/") and len(saved()) == epochs) and time.monotonic() < give_up:
            assert training.poll() is None, training.communicate()[1]
            time.sleep(0.1)
        assert len(saved()) == epochs  # all epochs are done, and the first checkpoint has not arrived
        assert files_on(hub, name) == {".gitattributes"}
    finally:
        arrived.set()
        _, complained = training.communicate(timeout=120)
    assert training.returncode == 0, complained
    titles = [commit.title for commit in hub.repositories[name].history("next")]
    assert titles[0] == "Training finished"
    assert "Training in progress, step 5" in titles
