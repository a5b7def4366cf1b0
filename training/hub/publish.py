"""Publish a folder that training or `save_pretrained` left: one commit that loads by the repository's name."""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.language_model_limssr import CHECKPOINT_SUBFOLDER
from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ..utils.loading import resolve_packaged
from .model_card import render_model_card, write_model_card
from .repository import copy_files, prepare_repository, published_files, push_files

NAME_IN_CARD = re.compile(r'AutoModel\.from_pretrained\("([^"]+)"')


def publish(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    adapter: bool = False,
    language_model: str | None = None,
    token: str | None = None,
) -> str:
    """
    Push model, processor, code, card, metrics and pictures. The folder is left unchanged.

    Args:
        folder: checkpoint folder.
        repo_id: `user/name`, or `name` for the token's own user; created where it is missing.
        private: visibility of a new repository.
        adapter: push only the trained weights; by default an adapter is merged with its language model.
        language_model: an adapter's language model that is not on the Hub: folder, GGUF file or packaged model's name.
        token: Hub token; by default that of `hf auth login`.

    Returns:
        URL of the commit.

    Raises:
        HubError: the Hub is out of reach or refuses.
        FileNotFoundError: the folder holds no checkpoint, or an incomplete one.
        ValueError: an adapter is asked for and there is none, or the checkpoint does not load.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; give the folder of a trained model.")
    fields = LimssrConfig.get_config_dict(folder)[0]
    if fields.get("model_type") != LimssrConfig.model_type:
        raise ValueError(f"{folder} holds a model of type {fields.get('model_type')!r}, expected 'limssr'.")
    is_adapter = LimssrConfig.from_dict(fields).checkpoint_form == "adapter"
    if adapter and not is_adapter:
        raise ValueError(
            f"{folder} holds a full model, from which no adapter can be extracted: publish one of its checkpoints "
            f"({folder}/checkpoint-N), or train with `--save_form adapter`."
        )
    repo_id = prepare_repository(repo_id, private, token)
    with TemporaryDirectory() as staged:
        copy_files(published_files(folder), staged)
        if is_adapter and not adapter:
            _merge_language_model(folder, Path(staged), language_model)
        _name_in_card(folder, Path(staged), repo_id)
        return push_files(published_files(staged), repo_id, f"Publish {folder.resolve().name}", token)


def _merge_language_model(folder: Path, staged: Path, language_model: str | None) -> None:
    """Replace the staged adapter by the full model; a language model carried beside it goes into the weights."""
    place = None if language_model is None else resolve_packaged(language_model)
    model = LimssrForScoreRegression.from_pretrained(folder, language_model=place)
    (staged / "model.safetensors").unlink()
    shutil.rmtree(staged / CHECKPOINT_SUBFOLDER, ignore_errors=True)
    model.save_pretrained(staged)


def _name_in_card(folder: Path, staged: Path, repo_id: str) -> None:
    """Render the card again, unless someone edited it: then only the name of the repository changes."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    name = found[1] if (found := NAME_IN_CARD.search(text)) else None
    if name is None or text == render_model_card(folder, name):
        write_model_card(staged, repo_id)
    else:
        (staged / "README.md").write_text(text.replace(f'"{name}"', f'"{repo_id}"'), encoding="utf-8")
