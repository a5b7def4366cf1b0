"""Revisions on the Hub: what one holds, one atomic commit per push, and the way back; readable errors."""

import fnmatch
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors
from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.language_model_limssr import CHECKPOINT_SUBFOLDER, wrong_tensors
from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...modeling_limssr.neighbours_limssr import NEIGHBOURS_FILE
from ..utils.checkpoints import (
    MANIFEST_FILE,
    checkpoint_folder,
    checkpoints_in,
    finish_folder,
    read_trainer_state,
    unfinished_folder,
)
from ..utils.files import OPTIMIZER_FILE, TRAINING_STATE_FILES, read_json
from ..utils.loading import place_of_language_model
from .model_card import note_neighbours, render_model_card, write_model_card

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
    place = place_of_language_model(language_model, [folder])
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
        note_neighbours(staged)


HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@.+)?")
BEST_SUBFOLDER = "best"  # the best checkpoint so far, in the revision of another one
TOKENIZER_FILES = ("*.jinja", "merges.txt", "vocab.txt", "*.model")
# All that ever leaves for the Hub; whatever else lies in the folder, a pickle above all, stays here.
PUBLISHED_FILES = ("*.safetensors", "*.json", "*_limssr.py", "README.md", "*.png", *TOKENIZER_FILES)
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
NEEDED = ("config.json", "processor_config.json", "README.md", "modeling_limssr.py", "processing_limssr.py")
REPORTS = ("run.json", "metrics.json", "training_args.json", "evaluation.png", "curve.png")
# A push deletes these where it brings no file of the same name: they would contradict the new revision.
REPLACED = (
    *WEIGHTS,
    NEIGHBOURS_FILE,
    *REPORTS,
    *TRAINING_STATE_FILES,
    f"{BEST_SUBFOLDER}/*",
    f"{CHECKPOINT_SUBFOLDER}/*",
)


class HubError(OSError):
    """The Hub is out of reach or refuses; the message says what to do."""


@contextmanager
def hub_errors(doing: str) -> Iterator[None]:
    """Turn errors of the Hub's client into a `HubError` that begins with `doing`, such as `cannot push to user/x`."""
    try:
        yield
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise HubError(f"{doing}: {_reason(error)}") from error
    except RuntimeError as error:  # the client wraps a failed upload of a file
        raise HubError(f"{doing}: {_reason(error.__cause__ or error)}") from error


def _reason(error: BaseException) -> str:
    said = " ".join(str(error).split())
    if not isinstance(error, errors.HfHubHTTPError):
        return f"the connection to the Hub failed ({type(error).__name__}: {said}); try again when it is reachable"
    status, said = error.response.status_code, error.server_message or said
    if status == 401 and not isinstance(error, errors.RepositoryNotFoundError):
        return f"the Hub does not know the token ({said}); log in with `hf auth login` or set HF_TOKEN"
    if status == 403:
        return f"the token does not permit it ({said}); use one that may write there"
    if status >= 500:
        return f"the Hub has trouble of its own ({status}: {said}); try again later"
    return f"{status}, {said}"


def prepare_repository(
    repo_id: str, private: bool | None = None, token: str | None = None, revision: str | None = None
) -> str:
    """
    Create the repository where it is missing, check that a model of ours may be pushed, and return its full name.

    Args:
        repo_id: `user/name`, or `name` for the token's own user.
        private: visibility of a new repository; the owner's default where None.
        token: Hub token; by default that of `hf auth login`.
        revision: branch, created where it is missing.

    Raises:
        HubError: the Hub is out of reach or refuses.
        ValueError: the repository holds another kind of model, or is public and should be private.
    """
    api = HfApi(token=token)
    with hub_errors(f"cannot push to {repo_id}"):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.auth_check(repo_id, write=True)
        if private and not api.model_info(repo_id).private:
            raise ValueError(f"{repo_id} exists and is public; make it private on the Hub, or give another name.")
        try:
            kind = read_json(api.hf_hub_download(repo_id, "config.json")).get("model_type")
        except errors.EntryNotFoundError:
            kind = None
        if kind not in (None, LimssrConfig.model_type):
            raise ValueError(f"{repo_id} holds a model of type {kind!r}, expected 'limssr'; give another name.")
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
    return repo_id


def published_files(
    folder: str | Path, with_training_state: bool = False, follow_links: bool = False
) -> dict[str, Path]:
    """
    Select what of a checkpoint folder goes to the Hub; never a pickle, and no predictions (they hold test labels).

    Args:
        folder: checkpoint folder.
        with_training_state: include what training needs to go on.
        follow_links: include links, of which the Hub's cache consists; otherwise none, wherever it leads.

    Returns:
        Path in the repository -> file.
    """
    folder, files = Path(folder), {}
    for subfolder in ("", CHECKPOINT_SUBFOLDER, BEST_SUBFOLDER):
        place = folder / subfolder
        for file in sorted(place.glob("*")):
            is_link = file.is_symlink() or (subfolder and place.is_symlink())
            is_wanted = _matches(file.name, PUBLISHED_FILES) and file.is_file() and (follow_links or not is_link)
            is_wanted &= file.name != MANIFEST_FILE  # of the folder here, whose other files differ a little
            if is_wanted and (with_training_state or not _matches(file.name, TRAINING_STATE_FILES)):
                files[file.relative_to(folder).as_posix()] = file
    return files


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def push_files(
    files: dict[str, Path], repo_id: str, message: str, token: str | None = None, revision: str | None = None
) -> str:
    """
    Push files in one commit: whoever loads a revision gets all of it or nothing.

    Args:
        files: path in the repository -> file.
        repo_id: an existing repository, `user/name`.
        message: commit message.
        token: Hub token.
        revision: branch, `main` by default.

    Returns:
        URL of the commit.

    Raises:
        HubError: the Hub is out of reach or refuses; the repository is unchanged.
        FileNotFoundError, ValueError: nobody could use this revision: a file is missing, or weights are truncated or
            not finite.
    """
    _check_complete(files)
    api = HfApi(token=token)
    with hub_errors(f"cannot push to {repo_id}"):
        existing = api.list_repo_files(repo_id, revision=revision)
        outdated = [path for path in existing if path not in files and _matches(path, REPLACED)]
        operations = [CommitOperationAdd(path, file) for path, file in files.items()]
        operations += [CommitOperationDelete(path) for path in outdated]
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision).commit_url


def _check_complete(files: dict[str, Path]) -> None:
    if missing := [name for name in NEEDED if name not in files]:
        raise FileNotFoundError(f"there is no {missing[0]} to publish; save model and processor in the folder first.")
    if not fnmatch.filter(files, WEIGHTS[0]):
        raise FileNotFoundError("there are no weights (model*.safetensors) to publish.")
    for path in fnmatch.filter(files, "*.safetensors"):
        try:
            with safe_open(files[path], framework="pt") as file:
                wrong = next(
                    (name for name in file.offset_keys() if wrong_tensors([(name, file.get_tensor(name))])), None
                )
        except SafetensorError as error:
            raise ValueError(f"{path} is no complete safetensors file ({error}); save the model again.") from error
        if wrong is not None:
            raise ValueError(f"{path} is not published: {wrong} is not finite, so that no score could be made of it.")


def fetch_checkpoint(name: str, output_dir: str | Path, token: str | None = None) -> str:
    """
    Download a training checkpoint and return its folder, ready to resume from as if it had been written here.

    Args:
        name: `user/name` or `user/name@revision`.
        output_dir: receives `checkpoint-N` and, where it is another one, the best checkpoint so far.
        token: Hub token.

    Raises:
        HubError: the Hub is out of reach or refuses.
        FileExistsError: `output_dir` has checkpoints already.
        FileNotFoundError: the revision holds no training state.
        ValueError: the training state holds what no trainer wrote.
    """
    output_dir = Path(output_dir)
    if existing := checkpoints_in(output_dir):
        raise FileExistsError(
            f"{existing[0]} exists already: go on with `--resume_from_checkpoint last`, or give another `output_dir`."
        )
    repo_id, _, revision = name.partition("@")
    with hub_errors(f"{name} is no folder here, and cannot be fetched from the Hub"):
        folder = Path(HfApi(token=token).snapshot_download(repo_id, revision=revision or None))
    files = published_files(folder, with_training_state=True, follow_links=True)
    files = {path: file for path, file in files.items() if file.suffix != ".py"}  # ours goes into later checkpoints
    if not {TRAINER_STATE_NAME, OPTIMIZER_FILE} <= files.keys():
        raise FileNotFoundError(
            f"{name} holds a model but no training to go on with. Runs with `--hub_strategy every_save` push one with "
            f"each checkpoint: name the revision of such a commit, {repo_id}@REVISION."
        )
    try:
        state = read_trainer_state(folder)
    except ValueError as error:
        raise ValueError(f"{name} is no checkpoint to go on with: {error}") from None
    step, best_step = state["global_step"], state.get("best_global_step")
    of_best = {path: files.pop(path) for path in list(files) if path.startswith(f"{BEST_SUBFOLDER}/")}
    if best_step is not None and best_step != step and of_best:
        named = {path.removeprefix(f"{BEST_SUBFOLDER}/"): file for path, file in of_best.items()}
        _copy_whole(named, checkpoint_folder(output_dir, best_step))
    checkpoint = checkpoint_folder(output_dir, step)
    _copy_whole(files, checkpoint)
    return str(checkpoint)


def _copy_whole(files: dict[str, Path], folder: Path) -> None:
    """Copy files into a folder that appears when it is whole."""
    unfinished = unfinished_folder(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    copy_files(files, unfinished)
    finish_folder(unfinished, folder)


def copy_files(files: dict[str, Path], folder: str | Path) -> None:
    """Copy files (path in the repository -> file) into a folder."""
    for path, file in files.items():
        target = Path(folder) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
