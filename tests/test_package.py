"""How the package is installed, what can be imported, and how its commands start."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import limssr

REPOSITORY = Path(__file__).parents[1]
API = REPOSITORY / "docs" / "api.md"
LIGHT = (
    "eval",
    "calibrate",
    "predict",
    "verify",
    "app",
    "compare",
    "summarize",
    "publish",
    "prepare",
    "extract_features",
)
LIGHT += ("reproduce", "benchmark")
HEAVY = ("torch", "transformers", "datasets", "scipy", "sklearn", "matplotlib", "ray", "pyarrow", "gradio")
ROW = re.compile(r"^\| `(\w+)` \| `([\w.]+)` \| .+ \|$", flags=re.MULTILINE)


def test_every_name_of_the_public_api_can_be_imported():
    names = ROW.findall(API.read_text(encoding="utf-8"))
    assert len(names) == sum(line.startswith("| `") for line in API.read_text(encoding="utf-8").splitlines()) > 20
    for name, module in names:
        assert hasattr(import_module(module), name), f"{module}.{name}"
    assert {name for name, module in names if module == "limssr"} == set(limssr.__all__)


def test_each_package_exports_its_class():
    for package, name in {
        "configuration": "LimssrConfig",
        "modeling_limssr": "LimssrForScoreRegression",
        "processing": "LimssrProcessor",
    }.items():
        assert getattr(import_module(f"limssr.{package}"), name) is getattr(limssr, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'limssr' has no attribute 'LimssrModell'"):
        limssr.LimssrModell  # noqa: B018


def test_the_version_is_the_installed_one():
    assert limssr.__version__ == version("limssr")


def start(*words, cwd, **variables) -> subprocess.CompletedProcess:
    """Run `python WORDS ...` in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path):
    (tmp_path / "limssr" / "training").mkdir(parents=True)  # as a clone called `limssr` looks from above
    done = start("-c", "import limssr.training.utils.files; print(limssr.__version__)", cwd=tmp_path)
    assert (done.stdout, done.stderr) == (f"{limssr.__version__}\n", "")


@pytest.mark.slow
def test_a_wheel_of_a_source_distribution_has_everything(tmp_path):
    for target, folder in (("sdist", REPOSITORY), ("wheel", tmp_path / f"limssr-{limssr.__version__}")):
        done = start("-m", "hatchling", "build", "--target", target, "--directory", tmp_path, cwd=folder)
        assert done.returncode == 0, done.stderr
        if target == "sdist":
            shutil.unpack_archive(next(tmp_path.glob("*.tar.gz")), tmp_path, filter="data")
    installed = tmp_path / "installed"
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), installed, "zip")
    wanted = {"model_card.md", "src/limssr/__main__.py"}
    for folder in ("configuration", "modeling_limssr", "processing", "training"):
        files = (REPOSITORY / folder).rglob("*.*")
        wanted |= {str(file.relative_to(REPOSITORY)) for file in files if file.suffix in (".py", ".yaml", ".json")}
    assert not [name for name in wanted if not (installed / "limssr" / name.removeprefix("src/limssr/")).is_file()]
    assert not (installed / "tests").exists()
    program = "import limssr, limssr.training.utils.files as files; print(limssr.__file__, files, limssr.__path__)"
    done = start("-c", program, cwd=tmp_path, PYTHONPATH=str(installed))
    assert str(installed / "limssr" / "__init__.py") in done.stdout, done.stderr
    assert str(REPOSITORY) not in done.stdout.replace(str(installed), "")
    done = start("-m", "limssr", "publish", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "usage: limssr publish" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import limssr", "from transformers import AutoModel, AutoProcessor"])
def test_the_auto_classes_know_the_model_type_in_any_order(first, checkpoint, tmp_path):
    program = (
        f"{first}\nimport sys\n"
        f"assert {first != 'import limssr'} == ('torch' in sys.modules)\n"
        "import limssr\nfrom transformers import AutoConfig, AutoModel, AutoProcessor\n"
        "assert type(AutoConfig.for_model('limssr')) is limssr.LimssrConfig\n"
        f"assert type(AutoModel.from_pretrained({str(checkpoint)!r})) is limssr.LimssrForScoreRegression\n"
        f"assert type(AutoProcessor.from_pretrained({str(checkpoint)!r})) is limssr.LimssrProcessor\n"
        "heavy = ('datasets', 'evaluate', 'peft', 'sklearn', 'matplotlib', 'ray', 'pyarrow')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = start("-c", program, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_help_imports_no_library(tmp_path):
    program = (
        "import sys\nfrom importlib import import_module\n"
        f"for name in {LIGHT}:\n"
        "    sys.argv = [f'limssr {name}', '--help']\n"
        "    try:\n        import_module(f'limssr.training.{name}').main()\n"
        "    except SystemExit as end:\n        assert end.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = start("-c", program, cwd=tmp_path)
    assert done.stdout.endswith("[]\n"), done.stderr
    assert "usage: limssr compare [-h]" in done.stdout
    assert "limssr eval MODEL CONFIG.yaml" in done.stdout


def test_a_script_names_the_command_it_was_started_with(tmp_path):
    (tmp_path / "training").symlink_to(REPOSITORY / "training")
    for started, named in (
        (("training/compare.py",), "python training/compare.py RUN_A"),
        (("-m", "limssr.training.compare"), "limssr compare RUN_A"),
        (("-m", "limssr", "compare"), "limssr compare RUN_A"),
    ):
        assert f"\n{named}" in start(*started, "--help", cwd=tmp_path).stdout


def test_the_command_lists_its_commands_and_finds_close_ones(tmp_path):
    listed = start("-m", "limssr", "--help", cwd=tmp_path).stdout
    assert re.search("^  predict    Score performances from recordings, feature files", listed, re.MULTILINE)
    assert all(len(line) <= 120 for line in listed.splitlines())
    done = start("-m", "limssr", "evla", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "limssr: no command is called 'evla'; did you mean `limssr eval`?\n"


def test_a_reader_that_has_gone_ends_a_command_quietly(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "limssr", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, cwd=tmp_path)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_optional_libraries_that_nobody_asked_for_stay_silent(tmp_path):
    done = start("-c", "import limssr, peft; limssr.LimssrTrainer", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
