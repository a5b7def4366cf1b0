"""Anyone can load a checkpoint: its folder carries the code, and nothing of this package needs to be installed."""

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor, dynamic_module_utils

from limssr import LimssrForScoreRegression, LimssrProcessor
from tests.helpers.models import make_calibration

ALLOWED = {"numpy", "torch", "safetensors", "huggingface_hub", "transformers"} | set(sys.stdlib_module_names)


def as_hub_cache(folder: Path, cache: Path) -> Path:
    """The same files the way the Hub's cache holds them: links into a folder of blobs."""
    snapshot = cache / "models--someone--limssr" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    for index, file in enumerate(sorted(folder.iterdir())):
        blob = snapshot.parents[1] / "blobs" / f"{index:040x}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.mark.slow
def test_a_stranger_gets_bit_identical_scores(
    score_as_a_stranger, tiny_language_model, tiny_tokenizer, tiny_features, tmp_path
):
    torch.manual_seed(0)
    model = LimssrForScoreRegression.from_language_model(
        tiny_language_model, modalities={"video": 16, "audio": 12, "flow": 8}
    )
    model.config.calibration = make_calibration(["score"], {"audio": 0.1})
    processor = LimssrProcessor.from_config(model.config, tiny_tokenizer)
    folders = {}
    for form in ("full", "adapter"):
        model.save_pretrained(tmp_path / form / "saved", form=form)
        processor.save_pretrained(tmp_path / form / "saved")
        folders[form] = as_hub_cache(tmp_path / form / "saved", tmp_path / form / "cache")
    loading = {"full": {}, "adapter": {"language_model": str(tiny_language_model)}}

    entries = [
        {"name": str(folder), "model": loading[form], "again": str(tmp_path / form / "again")}
        for form, folder in folders.items()
    ]
    scores = score_as_a_stranger(entries, tiny_features, HF_HUB_OFFLINE="1")
    for index, (form, folder) in enumerate(folders.items()):
        inputs = AutoProcessor.from_pretrained(folder)(features=tiny_features)
        with torch.no_grad():
            expected = AutoModel.from_pretrained(folder, **loading[form])(**inputs).scores
        assert torch.equal(scores[f"{index}"], expected)
        assert torch.equal(scores[f"{index}.again"], expected)
        written = {file.name for file in (tmp_path / form / "again").iterdir()}
        assert {file.name for file in folder.iterdir()} <= written


def test_model_and_processor_each_write_their_own_code(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "processor")
    of_model = {file.name: file.read_text() for file in (tmp_path / "model").glob("*.py")}
    of_processor = {file.name: file.read_text() for file in (tmp_path / "processor").glob("*.py")}
    assert "processing_limssr.py" not in of_model
    assert "modeling_limssr.py" not in of_processor
    together = of_model | of_processor
    assert len(together) <= 29
    assert all(name.endswith("_limssr.py") for name in together)
    auto_map = json.loads((tmp_path / "model" / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel"}
    auto_map |= json.loads((tmp_path / "processor" / "processor_config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoProcessor"}
    for reference in auto_map.values():
        module, name = reference.split(".")
        assert f"class {name}" in together[f"{module}.py"]


def imports_of(source: str) -> tuple[set[str], set[str], set[str]]:
    """Absolute imports, those behind `if is_peft_available()`, and relative ones."""
    tree = ast.parse(source)
    guarded = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "is_peft_available()"
        for node in ast.walk(branch)
    }
    absolute, behind_guard, relative = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            (behind_guard if node in guarded else absolute).update(names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert node.level == 1
                relative.add(node.module)
            else:
                (behind_guard if node in guarded else absolute).add(node.module.split(".")[0])
    return absolute, behind_guard, relative


def test_the_bundle_imports_only_what_everyone_has_and_never_in_a_circle(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    needs = {}
    for file in tmp_path.glob("*.py"):
        absolute, behind_guard, relative = imports_of(file.read_text())
        assert absolute <= ALLOWED, file.name
        assert behind_guard <= {"peft"}, file.name
        needs[file.stem] = relative
    assert set().union(*needs.values()) <= needs.keys()
    list(TopologicalSorter(needs).static_order())  # refuses a circle


@torch.no_grad()
def test_with_the_package_installed_no_trust_is_needed_not_even_from_a_hub_cache(
    tiny_model, tiny_processor, tiny_features, tmp_path
):
    tiny_model.save_pretrained(tmp_path / "saved")
    tiny_processor.save_pretrained(tmp_path / "saved")
    folder = as_hub_cache(tmp_path / "saved", tmp_path / "cache")
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert (type(model), type(processor)) == (LimssrForScoreRegression, LimssrProcessor)
    expected = tiny_model(**tiny_processor(features=tiny_features)).scores
    assert torch.equal(model(**processor(features=tiny_features)).scores, expected)


LANGUAGE_MODEL_CODE = """
from transformers import Qwen3Config, Qwen3Model

class MineConfig(Qwen3Config):
    model_type = "mine"

class MineModel(Qwen3Model):
    config_class = MineConfig

MineConfig.register_for_auto_class()
MineModel.register_for_auto_class("AutoModel")
"""
LOAD = """
import sys
from limssr import LimssrForScoreRegression
folder, language_model = sys.argv[1:]
try:
    LimssrForScoreRegression.from_pretrained(folder)
except ValueError as error:
    print(error)
model = LimssrForScoreRegression.from_pretrained(folder, language_model=language_model, trust_remote_code=True)
print(type(model.model.language_model).__name__)
"""


@pytest.mark.slow
@torch.no_grad()
def test_a_language_model_may_bring_its_own_code(
    tiny_text_config, tiny_tokenizer, tiny_features, tmp_path, monkeypatch
):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "modeling_mine.py").write_text(LANGUAGE_MODEL_CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    mine = import_module("modeling_mine")
    mine.MineModel(mine.MineConfig(**tiny_text_config.to_dict())).save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        LimssrForScoreRegression.from_language_model(tmp_path / "mine")
    model = LimssrForScoreRegression.from_language_model(
        tmp_path / "mine", modalities={"video": 16, "audio": 12, "flow": 8}, trust_remote_code=True
    ).eval()
    assert type(model.model.language_model).__name__ == "MineModel"
    inputs = LimssrProcessor.from_config(model.config, tiny_tokenizer)(features=tiny_features)
    for form in ("full", "adapter"):
        model.save_pretrained(tmp_path / form, form=form)
        again = LimssrForScoreRegression.from_pretrained(
            tmp_path / form, language_model=tmp_path / "mine", trust_remote_code=True
        )
        torch.testing.assert_close(again(**inputs).scores, model(**inputs).scores, atol=1e-5, rtol=0)
    command = [sys.executable, "-c", LOAD, tmp_path / "full", tmp_path / "mine"]  # a process that never saw the code
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "again")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=240)
    refused, loaded = done.stdout.splitlines()
    assert "of type 'mine', which transformers does not know: pass its place and trust its code" in refused
    assert loaded == "MineModel"


@pytest.mark.slow
def test_folders_of_one_name_each_get_their_own_code(tiny_model, run_as_a_stranger, tmp_path):
    rooms = Path(__file__).parents[2]
    for room in ("configuration", "modeling_limssr", "processing"):  # another version of the package
        (tmp_path / "another" / room).mkdir(parents=True)
        for file in (rooms / room).glob("*_limssr.py"):
            (tmp_path / "another" / room / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "another" / "modeling_limssr" / "losses_limssr.py").open("a") as losses:
        losses.write("ANOTHER = True\n")
    folders = [tmp_path / version / "checkpoint" for version in ("one", "two")]
    for folder in folders:
        tiny_model.save_pretrained(folder)
    bundle = "from another.configuration.bundle_limssr import write_code_bundle as write; "
    write = f"write({str(folders[1])!r}, 'another.modeling_limssr.modeling_limssr')"
    run_as_a_stranger("-c", bundle + write, PYTHONPATH=str(tmp_path))
    script = """
import sys
from transformers import AutoModel
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    losses = sys.modules[type(model).__module__.replace("modeling_limssr", "losses_limssr")]
    print(hasattr(losses, "ANOTHER"))
"""
    assert run_as_a_stranger("-c", script, *folders).split() == ["False", "True"]
