"""One word for one thing, the field's own: what used to have a name of our own does not come back."""

import ast
import re

import pytest

from tests.helpers.documents import PAGES, REPOSITORY, page_name

# House word -> what it is called.
REPLACED = {
    r"\bbackbones?\b": "language model",
    r"\btext model\b": "language model",
    r"\bfloors?\b": "training-mean baseline",
    r"\bspill(s|ed)?\b": "table cache",
    r"\bmistakes? in (words|one line)\b": "readable errors",
    r"\b(all|masked) views?\b": "mask, mask set",
    r"\b(may|might) see\b": "allowed",
    r"\b(less|more|un)[ -]?(sure|certain)\b": "the number that was measured",
    r"^\|(.*\|)? *(shown|floor|marks) *\|": "modalities, mean, caveats, available",
}
FOLDERS = ("configuration", "modeling_limssr", "processing", "src/limssr", "training")


def prose_of_the_code() -> dict[str, str]:
    """Module -> its docstrings."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
            docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
            found[page_name(path)] = "\n".join(docstrings)
    return found


@pytest.mark.parametrize("pattern", REPLACED)
def test_no_house_word_is_left(pattern):
    pages = [*PAGES, REPOSITORY / "model_card.md"]
    texts = {page_name(page): page.read_text(encoding="utf-8") for page in pages} | prose_of_the_code()
    found = [
        f"{name}: {' '.join(line.split())}"
        for name, text in texts.items()
        for line in text.splitlines()
        if re.search(pattern, line)
    ]
    assert not found, f"say {REPLACED[pattern]}:\n" + "\n".join(found)
