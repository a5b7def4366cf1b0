"""A language model of the same architecture that has never read anything: what is the pretrained one worth?"""

from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoTokenizer, set_seed

from ...modeling_limssr.language_model_limssr import load_language_model
from ..fitting.model import locate_language_model

KEYS = ("language_model", "gguf_file", "revision", "num_hidden_layers")


class RandomLanguageModel:
    """
    Takes the place of the language model of a configuration: as many layers, the same tokenizer, weights drawn as its
    architecture draws them.

    Args:
        settings: of `train.py`: `language_model` and what belongs to it, and `seed`.
        folder: where it will lie, a model folder like any other.
    """

    def __init__(self, settings: dict[str, Any], folder: Path):
        self.original = {name: settings.get(name) for name in KEYS}
        self.seed = settings["seed"]
        self.folder = folder

    @property
    def settings(self) -> dict[str, Any]:
        """What `train.py` is told instead."""
        return dict.fromkeys(KEYS) | {"language_model": str(self.folder)}

    def write(self) -> None:
        """Draws it, unless it lies there already."""
        if self.folder.is_dir():
            return
        source = dict(self.original)
        source["name_or_folder"], source["gguf_file"] = locate_language_model(
            source.pop("language_model"), source["gguf_file"]
        )
        pretrained, _ = load_language_model(**source)
        hub = {name: source[name] for name in ("gguf_file", "revision") if source[name] is not None}
        set_seed(self.seed)
        drawn = AutoModel.from_config(pretrained.config).to(pretrained.dtype)
        unfinished = self.folder.with_name(self.folder.name + "_unfinished")
        drawn.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(source["name_or_folder"], **hub).save_pretrained(unfinished)
        unfinished.rename(self.folder)
