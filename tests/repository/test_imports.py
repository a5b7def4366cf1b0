"""Imports go down only, from room to room, and nowhere in a circle; CONTRIBUTING.md draws the rooms."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("configuration", "modeling_limssr", "processing", "src/limssr", "training")
PATHS = [path for folder in FOLDERS for path in sorted((REPOSITORY / folder).rglob("*.py"))]

CORE = {"configuration", "modeling_limssr", "processing"}  # without any training library
LIBRARY = {"utils", "data", "prediction", "explanation", "evaluation", "hub"}
FITTING = CORE | LIBRARY | {"arguments", "fitting"}
SCRIPTS = FITTING | {"limssr", "reproduction", "benchmarking", "soaking", "interface", "scripts"}

# Room -> the rooms it may import besides itself.
ALLOWED = {
    "configuration": set(),
    "processing": {"configuration"},
    "modeling_limssr": {"configuration"},
    "converter": CORE,  # a script beside the model, as transformers keeps its own
    "limssr": CORE,  # the public names; what needs training libraries is imported when asked for
    "utils": CORE,
    "data": CORE | {"utils"},
    "prediction": CORE | {"utils", "data"},
    "explanation": CORE | {"limssr", "utils", "data", "prediction"},
    "evaluation": CORE | {"utils", "data", "prediction", "explanation"},
    "hub": CORE | {"limssr", "utils", "data", "prediction", "explanation", "evaluation"},
    "arguments": CORE | {"utils"},
    "fitting": CORE | LIBRARY | {"arguments"},
    "reproduction": FITTING,
    "benchmarking": FITTING,
    "soaking": FITTING | {"converter"},
    "interface": CORE | {"utils", "data", "prediction", "explanation"},
    "scripts": SCRIPTS,
}


def module_name(path: Path) -> str:
    """`limssr.training.data.masks` for training/data/masks.py, `limssr.training.data` for its __init__.py."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    parts = parts[1:] if parts[0] == "src" else parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "limssr" else ("limssr", *parts))


def room_of(module: str) -> str:
    """Folder of a module of training; `scripts` for what lies flat in it; else the package."""
    parts = module.split(".")[1:]
    if parts == ["__main__"]:  # the command `limssr`
        return "scripts"
    if parts and parts[-1].startswith("convert_"):
        return "converter"
    if not parts or parts[0] != "training":
        return parts[0] if parts else "limssr"
    if parts[1:] == ["arguments"]:
        return "arguments"
    return parts[1] if len(parts) > 1 and (REPOSITORY / "training" / parts[1]).is_dir() else "scripts"


MODULES = {module_name(path): path for path in PATHS}


def read_imports(module: str, path: Path, modules: dict[str, Path] = MODULES) -> Iterator[tuple[int, str]]:
    """Line and module of each import of our own, those inside functions and type checks included."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                found = f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in modules else origin
                if found in modules:
                    yield node.lineno, found


IMPORTS = {module: sorted(set(read_imports(module, path))) for module, path in MODULES.items()}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_rooms_below_it(room):
    own = [module for module in MODULES if room_of(module) == room]
    assert own, f"the repository has no room {room}"
    upwards = [
        f"{MODULES[module].relative_to(REPOSITORY)}:{line} imports {imported}"
        for module in own
        for line, imported in IMPORTS[module]
        if room_of(imported) not in ALLOWED[room] | {room}
    ]
    assert not upwards, "\n".join(["", *upwards])


def test_every_module_belongs_to_a_room_of_the_list():
    assert {room_of(module) for module in MODULES} == set(ALLOWED)


def test_no_import_goes_in_a_circle():
    graph = {module: {imported for _, imported in found} - {module} for module, found in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_imports_of_all_kinds_are_read(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        "import limssr.training.utils.files\n"
        "from ..data import masks, load\n"
        "from . import tables\n"
        "def late():\n    from .seeds import read\n    from limssr import LimssrConfig\n"
    )
    found = [imported for _, imported in read_imports("limssr.training.evaluation.example", path)]
    in_training = ["utils.files", "data.masks", "data", "evaluation.tables", "evaluation.seeds"]
    assert sorted(found) == sorted([*(f"limssr.training.{name}" for name in in_training), "limssr"])


def test_no_test_module_imports_another():
    helpers = "tests.helpers"
    for path in (REPOSITORY / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [f"{'.' * node.level}{node.module or ''}"] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                is_ours = name.startswith((".", "tests", "test_", "conftest"))
                allowed = name.startswith(helpers) or path.parent.name == "helpers"
                assert not is_ours or allowed, f"{path.relative_to(REPOSITORY)}:{node.lineno} imports {name}"
