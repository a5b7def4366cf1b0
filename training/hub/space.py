"""A Space: the page of `limssr app` for a published model, on the Hub."""

import shutil
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, SpaceCardData
from packaging.requirements import Requirement

import limssr

from .repository import hub_errors

PACKAGE = Path(__file__).parents[2]  # of the rooms: the installed package, or a clone
ROOMS = ("configuration", "modeling_limssr", "processing", "training")
EXTRAS = ("app", "explain", "media")
EXAMPLES = "examples"
APP = '''"""The page of {model} in a browser."""

from pathlib import Path

from limssr.training.interface.server import serve

examples = Path(__file__).with_name("{examples}")
serve("{model}", examples if examples.is_dir() else None)
'''
CARD = """---
{metadata}
---

# {title}

Scores performances with [{model}](https://huggingface.co/{model}) from whatever modalities they have. A
private model needs a secret `HF_TOKEN` that may read it, in the settings of the Space.
"""


def publish_space(
    repo_id: str, examples: str | Path | None = None, private: bool | None = None, token: str | None = None
) -> str:
    """
    Push a Space that serves a published model, under the same name, in one commit.

    Args:
        repo_id: model on the Hub, `user/name`.
        examples: folder with performances to try, see `find_examples`; everybody who sees the Space sees them.
        private: visibility of a new Space.
        token: Hub token; by default that of `hf auth login`.

    Returns:
        URL of the Space.

    Raises:
        HubError: the Hub is out of reach or refuses.
    """
    api = HfApi(token=token)
    with TemporaryDirectory() as folder, hub_errors(f"cannot push the Space {repo_id}"):
        write_space(folder, repo_id, examples)
        kind = {"repo_type": "space", "repo_id": repo_id}
        url = api.create_repo(**kind, space_sdk="gradio", private=private, exist_ok=True)
        replaced = ["limssr/*", f"{EXAMPLES}/*"]
        api.upload_folder(**kind, folder_path=folder, delete_patterns=replaced, commit_message="Serve the model")
    return str(url)


def write_space(folder: str | Path, repo_id: str, examples: str | Path | None = None) -> None:
    """
    Write what a Space holds: `app.py`, requirements, card, this package (which is on no index), and examples.

    Args:
        folder: empty folder.
        repo_id: model on the Hub, `user/name`.
        examples: see `publish_space`.
    """
    folder = Path(folder)
    needed = list(_requirements())
    (folder / "app.py").write_text(APP.format(model=repo_id, examples=EXAMPLES), encoding="utf-8")
    lines = [f"{each.name}{_extras(each)}{each.specifier}\n" for each in needed]
    (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "README.md").write_text(_card(repo_id, needed), encoding="utf-8")
    for room in ROOMS:
        shutil.copytree(PACKAGE / room, folder / "limssr" / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*Path(limssr.__file__).parent.glob("*.py"), PACKAGE / "model_card.md"]:
        shutil.copy(file, folder / "limssr")
    if examples is not None:
        shutil.copytree(examples, folder / EXAMPLES)


def _requirements() -> Iterator[Requirement]:
    """What the package and the extras that the page uses need."""
    for line in requires("limssr"):
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in EXTRAS):
            yield requirement


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _card(repo_id: str, needed: list[Requirement]) -> str:
    gradio = next(each for each in needed if each.name == "gradio")
    title = repo_id.rpartition("/")[2]
    metadata = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=next(each.version for each in gradio.specifier if each.operator == ">="),
        python_version="3.11",
        app_file="app.py",
        models=[repo_id],
    )
    return CARD.format(metadata=metadata.to_yaml(), title=title, model=repo_id)
