"""Publishes a folder that training or `save_pretrained` left: one commit that anyone can load by its name."""

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
    Pushes model, processor, code, card, metrics and pictures. The folder stays as it is.

    Args:
        folder: of the checkpoint.
        repo_id: `user/name`, or `name` for the token's own user; made where it is missing.
        private: whether a new repository is private.
        adapter: push only what was trained; by default an adapter is joined with its language model.
        language_model: where the language model of an adapter lies, if not on the Hub: folder, GGUF file or a name of
            `PACKAGED_MODELS`.
        token: of the Hub; the one of `hf auth login` by default.

    Returns:
        Where the commit can be seen.

    Raises:
        HubError: the Hub was not reached, or refuses.
        FileNotFoundError: no checkpoint in the folder, or a part of it is missing.
        ValueError: an adapter is asked for and there is none, or the checkpoint does not load.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if adapter and config.checkpoint_form != "adapter":
        raise ValueError(
            f"{folder} holds a full model, out of which no adapter can be taken: publish one of its checkpoints "
            f"({folder}/checkpoint-N), or train with `--save_form adapter`."
        )
    repo_id = prepare_repository(repo_id, private, token)
    with TemporaryDirectory() as staged:
        copy_files(published_files(folder), staged)
        if config.checkpoint_form == "adapter" and not adapter:
            _join_language_model(folder, Path(staged), language_model)
        _name_in_card(folder, Path(staged), repo_id)
        return push_files(published_files(staged), repo_id, f"Publish {folder.resolve().name}", token)


def _read_config(folder: Path) -> LimssrConfig:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; name the folder of a trained model.")
    config = LimssrConfig.get_config_dict(folder)[0]
    if config.get("model_type") != LimssrConfig.model_type:
        raise ValueError(f"{folder} holds a model of type {config.get('model_type')!r}, expected 'limssr'.")
    return LimssrConfig.from_dict(config)


def _join_language_model(folder: Path, staged: Path, language_model: str | None) -> None:
    """Where the checkpoint carries its language model beside it, that goes into the weights too."""
    language_model = None if language_model is None else resolve_packaged(language_model)
    model = LimssrForScoreRegression.from_pretrained(folder, language_model=language_model)
    (staged / "model.safetensors").unlink()
    shutil.rmtree(staged / CHECKPOINT_SUBFOLDER, ignore_errors=True)
    model.save_pretrained(staged)


def _name_in_card(folder: Path, staged: Path, repo_id: str) -> None:
    """A card that nobody edited is written anew; in one that somebody did, only the name of the repository changes."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    name = found[1] if (found := NAME_IN_CARD.search(text)) else None
    if name is None or text == render_model_card(folder, name):
        write_model_card(staged, repo_id)
    else:
        (staged / "README.md").write_text(text.replace(f'"{name}"', f'"{repo_id}"'), encoding="utf-8")
