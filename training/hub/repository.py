"""What a revision of ours on the Hub holds, and the way there and back: one commit a push, mistakes in words."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.language_model_limssr import CHECKPOINT_SUBFOLDER
from ..fitting.checkpoints import OPTIMIZER_FILE

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@.+)?")
# The best checkpoint so far, in a revision to go on from that is not the best itself.
BEST_SUBFOLDER = "best"
# What training needs besides the model to go on.
TRAINING_STATE_FILES = (
    "trainer_state.json",
    "optimizer.safetensors",
    "optimizer.json",
    "scaler.json",
    "rng_state*.json",
)
# All that ever leaves for the Hub; whatever else lies in the folder, a pickle above all, stays here.
PUBLISHED_FILES = (
    "*.safetensors",
    "*.json",
    "*.py",
    "*.jinja",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "README.md",
    "*.png",
)
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
# What a push takes away where it brings nothing of that name: it would contradict the new revision.
REPORTS = ("run.json", "metrics.json", "training_args.json", "evaluation.png", "curve.png")
REPLACED = (*WEIGHTS, *REPORTS, *TRAINING_STATE_FILES, f"{BEST_SUBFOLDER}/*", f"{CHECKPOINT_SUBFOLDER}/*")


class HubError(OSError):
    """The Hub was not reached, or refused; the message says what to do."""


@contextmanager
def hub_errors(doing: str) -> Iterator[None]:
    """
    Args:
        doing: what fails then, such as `cannot push to user/name`; begins the message.

    Raises:
        HubError: in place of what the Hub's client raises.
    """
    try:
        yield
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise HubError(f"{doing}: {_reason(error)}") from error
    except RuntimeError as error:  # in which the client wraps what went wrong with the upload of a file
        raise HubError(f"{doing}: {_reason(error.__cause__ or error)}") from error


def _reason(error: BaseException) -> str:
    if not isinstance(error, HfHubHTTPError):
        said = " ".join(str(error).split())
        return f"the connection to the Hub failed ({type(error).__name__}: {said}); repeat it when the Hub is reached"
    status, said = error.response.status_code, error.server_message or " ".join(str(error).split())
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return f"the Hub does not know the token ({said}); log in with `hf auth login` or set HF_TOKEN"
    if status == 403:
        return f"the token does not permit it ({said}); use one that may write there"
    if status >= 500:
        return f"the Hub has trouble of its own ({status}: {said}); repeat it later"
    return f"{status}, {said}"


def prepare_repository(
    repo_id: str, private: bool | None = None, token: str | None = None, revision: str | None = None
) -> str:
    """
    Makes sure, before anything is uploaded, that there is a repository we may write our model to.

    Args:
        repo_id: `user/name`, or `name` for the token's own user.
        private: whether a new repository is private; of the owner's default by default.
        token: of the Hub; the one of `hf auth login` by default.
        revision: a branch, made where it is missing.

    Returns:
        The full name.

    Raises:
        HubError: the Hub was not reached, or refuses.
        ValueError: the repository is there and holds another kind of model, or is public and should be private.
    """
    api = HfApi(token=token)
    with hub_errors(f"cannot push to {repo_id}"):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.auth_check(repo_id, write=True)
        if private and not api.model_info(repo_id).private:
            raise ValueError(f"{repo_id} is there already and public; make it private on the Hub, or name another.")
        kind = _model_type(repo_id, token)
        if kind not in (None, LimssrConfig.model_type):
            raise ValueError(f"{repo_id} holds a model of type {kind!r}, which a push would mix up: name another.")
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
    return repo_id


def _model_type(repo_id: str, token: str | None) -> str | None:
    """By the configuration in the repository; None where there is none."""
    try:
        file = hf_hub_download(repo_id, "config.json", token=token)
    except EntryNotFoundError:
        return None
    return json.loads(Path(file).read_text(encoding="utf-8")).get("model_type")


def published_files(folder: str | Path, with_training_state: bool = False) -> dict[str, Path]:
    """
    What of a checkpoint folder goes to the Hub: path in the repository -> file. Weights, configuration, processor,
    code, card, metrics and pictures; never a pickle, and no predictions (they show the labels of the test split).

    Args:
        folder: of the checkpoint.
        with_training_state: also what training needs to go on.
    """
    folder, files = Path(folder), {}
    for subfolder in ("", CHECKPOINT_SUBFOLDER, BEST_SUBFOLDER):
        for file in sorted((folder / subfolder).glob("*")):
            is_state = any(fnmatch(file.name, pattern) for pattern in TRAINING_STATE_FILES)
            wanted = any(fnmatch(file.name, pattern) for pattern in PUBLISHED_FILES)
            if file.is_file() and wanted and (with_training_state or not is_state):
                files[file.relative_to(folder).as_posix()] = file
    return files


def check_complete(files: dict[str, Path]) -> None:
    """
    Raises:
        FileNotFoundError: something is missing without which nobody could load the revision.
        ValueError: weights that are no safetensors, or cut short.
    """
    needed = ["config.json", "processor_config.json", "README.md", "modeling_limssr.py", "processing_limssr.py"]
    if missing := [name for name in needed if name not in files]:
        raise FileNotFoundError(f"there is no {missing[0]} to publish; save model and processor in the folder first.")
    weights = {path: file for path, file in files.items() if path.endswith(".safetensors")}
    if not any(fnmatch(path, WEIGHTS[0]) for path in weights):
        raise FileNotFoundError("there are no weights (model*.safetensors) to publish.")
    for path, file in weights.items():
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}); save the model again.") from error


def push_files(
    files: dict[str, Path], repo_id: str, message: str, token: str | None = None, revision: str | None = None
) -> str:
    """
    Makes one commit of the files: whoever loads a revision sees all of it or nothing.

    Args:
        files: path in the repository -> file.
        repo_id: `user/name`, which exists.
        message: of the commit.
        token: of the Hub.
        revision: the branch, `main` by default.

    Returns:
        Where the commit can be seen.

    Raises:
        HubError: the Hub was not reached, or refuses; the repository is as it was.
    """
    check_complete(files)
    api = HfApi(token=token)
    with hub_errors(f"cannot push to {repo_id}"):
        there = api.list_repo_files(repo_id, revision=revision)
        stale = [path for path in there if path not in files and any(fnmatch(path, name) for name in REPLACED)]
        operations = [CommitOperationAdd(path, file) for path, file in files.items()]
        operations += [CommitOperationDelete(path) for path in stale]
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision).commit_url


def fetch_checkpoint(name: str, output_dir: str | Path, token: str | None = None) -> str:
    """
    Brings a training from the Hub into a folder, where it goes on like one that was stopped there.

    Args:
        name: `user/name` or `user/name@revision`.
        output_dir: gets `checkpoint-N` and, where that is another one, the best checkpoint so far.
        token: of the Hub.

    Returns:
        The folder of the checkpoint.

    Raises:
        HubError: the Hub was not reached, or refuses.
        FileExistsError: `output_dir` has checkpoints already.
        FileNotFoundError: that revision holds no training state.
    """
    output_dir = Path(output_dir)
    if output_dir.is_dir() and (newest := get_last_checkpoint(output_dir)):
        raise FileExistsError(
            f"{newest} is there already: go on with `--resume_from_checkpoint last`, or name another `output_dir`."
        )
    repo_id, _, revision = name.partition("@")
    with hub_errors(f"{name} is no folder here, and cannot be fetched from the Hub"):
        folder = Path(snapshot_download(repo_id, revision=revision or None, token=token))
    files = published_files(folder, with_training_state=True)
    if not {"trainer_state.json", OPTIMIZER_FILE} <= files.keys():
        raise FileNotFoundError(
            f"{name} holds a model but no training to go on with. Runs with `--hub_strategy every_save` push one with "
            f"each checkpoint: name the revision of such a commit, {repo_id}@REVISION."
        )
    state = json.loads(files.pop("trainer_state.json").read_text(encoding="utf-8"))
    checkpoint = output_dir / f"{PREFIX_CHECKPOINT_DIR}-{state['global_step']}"
    best = output_dir / f"{PREFIX_CHECKPOINT_DIR}-{state['best_global_step']}"
    of_best = {path: file for path, file in files.items() if path.startswith(f"{BEST_SUBFOLDER}/")}
    state["best_model_checkpoint"] = str(best) if of_best or best == checkpoint else None
    output_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output_dir, prefix="_fetch-") as fetched:  # a copy cut short is no checkpoint
        copied = Path(fetched, "checkpoint")
        copy_files(files, copied)
        (copied / "trainer_state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        if of_best:
            (copied / BEST_SUBFOLDER).rename(best)
        copied.rename(checkpoint)
    return str(checkpoint)


def copy_files(files: dict[str, Path], folder: str | Path) -> None:
    """Path in the repository -> file, as a folder."""
    for path, file in files.items():
        target = Path(folder) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
