"""Tiny real parts that the tests share: a random language model, its tokenizer, a model and a processor."""

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, Qwen3Config
from transformers.utils import is_bitsandbytes_available, is_schedulefree_available

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.modeling_limssr.convert_limssr_original_to_hf import main as convert_checkpoint
from limssr.training.arguments import parse_training_arguments
from limssr.training.soaking.kills import TINY
from tests.helpers.golden import Golden
from tests.helpers.layouts import (
    write_finediving,
    write_fisv,
    write_fs1000,
    write_mast_melody,
    write_own_folder,
    write_percepiano,
    write_rhythmic_gymnastics,
    write_speechocean762,
)
from tests.helpers.models import make_tokenizer, write_text_encoder

# Several threads may share a sum differently from call to call, and some tests compare bit by bit.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

FEATURE_SIZES = {"video": 16, "audio": 12, "flow": 8}


def pytest_collection_modifyitems(items) -> None:
    """Slow tests first: at the end, no worker then waits for a long one."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository: real label files and golden numbers."""
    folder = Path(os.environ.get("LIMSSR_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"the reference data is not at {folder}; set LIMSSR_SHARED to its place")
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    """Folder of a text encoder small enough to embed a whole dataset in seconds."""
    return write_text_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def golden(shared) -> Golden:
    return Golden.read(shared / "golden" / "qwen3_tiny")


@pytest.fixture(scope="session")
def converted(golden, tmp_path_factory) -> dict[str, Path]:
    """The published checkpoint in both forms: LoRA merged, and LoRA kept apart."""
    options = {
        "checkpoint": golden.folder / "original_checkpoint.pkl",
        "language_model": golden.folder / "llm",
        "prompt": golden.folder / "prompt.json",
        "max_clips": golden.meta["clip_num"],
        "lora_alpha": golden.meta["lora_alpha"],
    }
    folders = {}
    for form, keep_lora in (("merged", "false"), ("adapter", "true")):
        folders[form] = tmp_path_factory.mktemp(form)
        flags = {**options, "output_dir": folders[form], "keep_lora": keep_lora}
        convert_checkpoint([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    return folders


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def make_text_config() -> Qwen3Config:
    """A small random language model; like real ones its table has more rows than there are tokens."""
    return Qwen3Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        vocab_size=264,
        max_position_embeddings=2048,
    )


@pytest.fixture
def tiny_text_config() -> Qwen3Config:
    return make_text_config()


@pytest.fixture
def tiny_config(tiny_text_config) -> LimssrConfig:
    return LimssrConfig(text_config=tiny_text_config, modalities=dict(FEATURE_SIZES), score_ranges=[100.0])


@pytest.fixture
def tiny_model(tiny_config) -> LimssrForScoreRegression:
    """In eval mode, with trained-looking batch norm statistics."""
    torch.manual_seed(0)
    model = LimssrForScoreRegression(tiny_config).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def tiny_processor(tiny_config, tiny_tokenizer) -> LimssrProcessor:
    return LimssrProcessor.from_config(tiny_config, tiny_tokenizer, max_clips=12)


@pytest.fixture
def tiny_features():
    """Three samples of different masks and lengths, as the processor takes them."""
    generator = torch.Generator().manual_seed(1)

    def clips(count: int, name: str) -> torch.Tensor:
        return torch.randn(count, FEATURE_SIZES[name], generator=generator)

    return {
        "video": [clips(5, "video"), None, clips(9, "video")],
        "audio": [clips(5, "audio"), clips(7, "audio"), None],
        "flow": [clips(3, "flow"), None, None],
    }


@pytest.fixture(scope="session")
def save_language_model(tiny_tokenizer):
    """`save_language_model(folder)` writes the language model alone with its tokenizer, always the same one."""
    from transformers import AutoModelForCausalLM

    def save(folder: Path) -> Path:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(make_text_config()).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def tiny_language_model(save_language_model, tmp_path) -> Path:
    """The language model alone, saved with its tokenizer as a model folder."""
    return save_language_model(tmp_path / "language_model")


def without(package: str, is_available):
    """A fixture: as where the package is not installed.

    Args:
        is_available: of transformers, which remembers what it found.
    """

    @pytest.fixture
    def absent(monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)
        is_available.cache_clear()
        yield
        is_available.cache_clear()

    return absent


without_bitsandbytes = without("bitsandbytes", is_bitsandbytes_available)
without_schedulefree = without("schedulefree", is_schedulefree_available)


@pytest.fixture(scope="session")
def quick_run() -> dict:
    """Settings of a training run of seconds: a tiny random language model, few synthetic performances."""
    return TINY | {
        "data_options": {"samples_train": 48, "samples_test": 21},
        "num_train_epochs": 2,
        "warmup_epochs": 1,
        "learning_rate": 0.001,
        "seed": 0,
    }


def required_by(names) -> set[str]:
    """The packages and all they need."""
    found, pending = set(), list(names)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
    return found


@pytest.fixture(scope="session")
def strangers_python(tmp_path_factory) -> Path:
    """A second environment that has torch, transformers, accelerate and safetensors, and nothing of ours."""
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder, with_pip=False, symlinks=True)
    link_packages(folder, ["torch", "transformers", "accelerate", "safetensors"])
    return folder / "bin" / "python"


def link_packages(environment: Path, names) -> None:
    """Put packages, and all they need, into an environment."""
    (site_packages,) = environment.glob("lib/python*/site-packages")
    for name in required_by(names):
        package = distribution(name)
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            link, target = site_packages / top, Path(package.locate_file(top))
            if target.exists() and not link.exists():
                link.symlink_to(target)


@pytest.fixture
def add_to_stranger(strangers_python):
    """`add_to_stranger("av")` puts one more package into that environment."""
    return lambda *names: link_packages(strangers_python.parents[1], names)


@pytest.fixture
def run_as_a_stranger(strangers_python, tmp_path):
    """`run_as_a_stranger(*words, **variables)`: what `python WORDS ...` printed, with a home and cache of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "OMP_NUM_THREADS": "1",
    }

    def run(*words: str | Path, **variables: str) -> str:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        command, variables = [strangers_python, *words], {**environment, **variables}
        done = subprocess.run(command, cwd=elsewhere, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def score_as_a_stranger(run_as_a_stranger, tmp_path):
    """`score_as_a_stranger(entries, features, **variables)` gives the scores of `tests/helpers/stranger.py`."""

    def score(entries: list[dict], features: dict[str, list], **variables: str) -> dict[str, torch.Tensor]:
        stored = {
            f"{name}.{index}": clips
            for name, samples in features.items()
            for index, clips in enumerate(samples)
            if clips is not None
        }
        files = tmp_path / "features.safetensors", tmp_path / "scores.safetensors"
        save_file(stored, files[0])
        run_as_a_stranger(Path(__file__).parent / "helpers" / "stranger.py", *files, json.dumps(entries), **variables)
        return load_file(files[1])

    return score


@pytest.fixture
def quick_config(quick_run, tmp_path):
    """`quick_config(key=value, ...)` writes the YAML file of a quick run and returns its path."""

    def write(**changes):
        settings = {**quick_run, "output_dir": str(tmp_path / "run"), **changes}
        path = tmp_path / "quick.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
        return path

    return write


@pytest.fixture
def quick_arguments(quick_config):
    """`quick_arguments(key=value, ...)` parses it: arguments of model, data and training."""
    return lambda *flags, **changes: parse_training_arguments([str(quick_config(**changes)), *flags])


@pytest.fixture(scope="session")
def write_layout(shared):
    """`write_layout(name, folder, widths=None)` writes a dataset as it was published and returns what it wrote.

    Labels are the real ones where they are public. The features are random, of the published widths or of `widths`:
    modality -> sample id -> array.
    """
    writers = {
        "fs1000": write_fs1000,
        "fisv": write_fisv,
        "rhythmic_gymnastics": write_rhythmic_gymnastics,
        "finediving": write_finediving,
        "folder": write_own_folder,
        "mast_melody": write_mast_melody,
        "percepiano": write_percepiano,
        "speechocean762": write_speechocean762,
    }
    return lambda name, folder, widths=None: writers[name](Path(folder), widths or {}, shared / "data")


@pytest.fixture
def checkpoint(tiny_model, tiny_processor, tmp_path) -> Path:
    """The folder of a saved tiny model and its processor."""
    tiny_model.save_pretrained(tmp_path / "checkpoint")
    tiny_processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"
