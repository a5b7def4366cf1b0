"""What was trained, on what and how: the record beside a trained model."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RECORD = "run.json"
PACKAGES = ("limssr", "torch", "transformers", "peft", "accelerate", "datasets")


def without_paths(value: Any) -> Any:
    """The same value with every path of this machine cut to its last name, so that records can be published."""
    if isinstance(value, dict):
        return {str(key): without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(entry) for entry in value]
    if isinstance(value, Path) or (isinstance(value, str) and _is_path(value)):
        return Path(value).name
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def parameter_counts(model) -> dict[str, int]:
    """Parameters in all, those that are trained, and those outside the language model."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    outside = sum(size for name, size in sizes.items() if "language_model." not in name)
    within = model.model.language_model.num_parameters()  # which knows that 4-bit ones lie two in a byte
    return {"all": outside + within, "trained": trained, "outside_language_model": outside}


def package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a folder that was not installed
            versions[name] = "not installed"
    return versions


def write_json(path: str | Path, content: Any) -> None:
    """Write strict JSON without paths of this machine, see `without_paths`."""
    text = json.dumps(without_paths(content), indent=2, allow_nan=False, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~/", "./", "../")) or (len(text) < 255 and "/" in text and Path(text).exists())
