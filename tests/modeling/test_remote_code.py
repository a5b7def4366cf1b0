"""Anyone can load a checkpoint: its folder carries the code, and nothing of this package needs to be installed."""

import ast
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from limssr import LimssrForScoreRegression, LimssrProcessor

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


@pytest.mark.parametrize("form", ["full", "adapter"])
def test_a_stranger_gets_bit_identical_scores(
    form, score_as_a_stranger, tiny_language_model, tiny_tokenizer, tiny_features, tmp_path
):
    torch.manual_seed(0)
    model = LimssrForScoreRegression.from_language_model(
        tiny_language_model, modalities={"video": 16, "audio": 12, "flow": 8}
    )
    model.save_pretrained(tmp_path / "saved", form=form)
    LimssrProcessor.from_config(model.config, tiny_tokenizer).save_pretrained(tmp_path / "saved")
    folder = as_hub_cache(tmp_path / "saved", tmp_path / "cache")
    loading = {"language_model": str(tiny_language_model)} if form == "adapter" else {}

    entry = {"name": str(folder), "model": loading, "again": str(tmp_path / "again")}
    scores = score_as_a_stranger([entry], tiny_features, HF_HUB_OFFLINE="1")
    processor = AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder, **loading)(**processor(features=tiny_features)).scores
    assert torch.equal(scores["0"], expected)
    assert torch.equal(scores["0.again"], expected)
    written = {file.name for file in (tmp_path / "again").iterdir()}
    assert {file.name for file in folder.iterdir()} <= written


def test_either_save_writes_the_whole_bundle(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "processor")
    of_model = {file.name: file.read_text() for file in (tmp_path / "model").glob("*.py")}
    of_processor = {file.name: file.read_text() for file in (tmp_path / "processor").glob("*.py")}
    assert of_model == of_processor
    assert {"configuration_limssr.py", "modeling_limssr.py", "processing_limssr.py"} <= set(of_model)
    auto_map = json.loads((tmp_path / "model" / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoProcessor"}
    auto_map |= json.loads((tmp_path / "processor" / "processor_config.json").read_text())["auto_map"]
    for reference in auto_map.values():
        module, name = reference.split(".")
        assert f"class {name}" in of_model[f"{module}.py"]


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


def test_the_bundle_imports_only_what_everyone_has(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    for file in tmp_path.glob("*.py"):
        absolute, behind_guard, relative = imports_of(file.read_text())
        assert absolute <= ALLOWED, file.name
        assert behind_guard <= {"peft"}, file.name
        assert all((tmp_path / f"{module}.py").is_file() for module in relative), file.name


@torch.no_grad()
def test_with_the_package_installed_no_trust_is_needed_not_even_from_a_hub_cache(
    tiny_model, tiny_processor, tiny_features, tmp_path
):
    tiny_model.save_pretrained(tmp_path / "saved")
    tiny_processor.save_pretrained(tmp_path / "saved")
    folder = as_hub_cache(tmp_path / "saved", tmp_path / "cache")
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert (type(model), type(processor)) == (LimssrForScoreRegression, LimssrProcessor)
    expected = tiny_model(**tiny_processor(features=tiny_features)).score
    assert torch.equal(model(**processor(features=tiny_features)).score, expected)
