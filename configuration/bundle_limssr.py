"""Writes the code bundle beside a checkpoint, so that `trust_remote_code=True` loads it without this package."""

import hashlib
import importlib.util
import re
from pathlib import Path

CONFIGURATION_FILE = "configuration_limssr.py"
DIGEST_LINE = "# SHA-256 of the code that this file belongs to: "
RELATIVE_IMPORT = re.compile(r"^from (\.+)([\w.]+) import ", flags=re.MULTILINE)


def write_code_bundle(folder: str | Path, module: str) -> list[str]:
    """
    Copy a module, and all it imports of this package, into a checkpoint folder.

    Model and processor each write their own part. A checkpoint folder is flat, so `from ..package.module import`
    becomes `from .module import`. The configuration's file gets one line more, the digest of all code: transformers
    keeps one class for each content of that file, and chooses the model's code by the configuration's class.

    Args:
        folder (`str` or `Path`): checkpoint folder.
        module (`str`): full name of the module that defines the class being saved.

    Returns:
        Names of the files written.
    """
    pending, written = [module], set()
    while pending:
        module = pending.pop()
        file = Path(importlib.util.find_spec(module).origin)
        if file.name in written:
            continue
        written.add(file.name)
        source = file.read_text(encoding="utf-8")
        package = module.rpartition(".")[0]
        for dots, name in RELATIVE_IMPORT.findall(source):
            pending.append(importlib.util.resolve_name(dots + name, package))
        flat = RELATIVE_IMPORT.sub(lambda found: f"from .{found[2].rpartition('.')[2]} import ", source)
        if file.name == CONFIGURATION_FILE and DIGEST_LINE not in flat:
            flat += f"\n{DIGEST_LINE}{_code_digest(file.parents[1])}\n"
        (Path(folder) / file.name).write_text(flat, encoding="utf-8")
    return sorted(written)


def _code_digest(package: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(package.glob("*/*_limssr.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
