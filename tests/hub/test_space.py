"""A Space holds all that it needs: what was pushed serves the published model, with the code it brings."""

import re

import pytest
from huggingface_hub import SpaceCard
from transformers import AutoTokenizer

pytest.importorskip("gradio", reason="the extra `app` is not installed")

from gradio_client import Client as Visitor

from limssr import LimssrForScoreRegression, LimssrProcessor
from tests.helpers.browser import serve_page
from tests.helpers.feature_rows import write_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(save_language_model, tmp_path_factory):
    language_model = save_language_model(tmp_path_factory.mktemp("language_model"))
    folder = tmp_path_factory.mktemp("model")
    model = LimssrForScoreRegression.from_language_model(language_model, modalities={"video": 16, "audio": 12})
    model.save_pretrained(folder)
    LimssrProcessor.from_config(model.config, AutoTokenizer.from_pretrained(language_model)).save_pretrained(folder)
    return folder


def test_what_was_pushed_serves_the_model(hub, client, folder, tmp_path):
    (folder / "README.md").write_text("# a card\n")
    examples = write_folder(tmp_path / "features", 2)
    said = client.script("publish.py", folder, "tried", "--space", "--examples", examples)
    assert said.splitlines()[-1] == f"Its Space: {hub.endpoint}/spaces/user/tried"

    pushed = hub.repositories["spaces/user/tried"].find("main").files
    assert pushed.keys() >= {"app.py", "README.md", "requirements.txt", "limssr/training/interface/page.js"}
    assert {path.partition("/")[0] for path in pushed} == {
        ".gitattributes",
        "README.md",
        "app.py",
        "examples",
        "limssr",
        "requirements.txt",
    }
    assert not [path for path in pushed if "__pycache__" in path or "tests" in path]
    place = tmp_path / "space"
    for path, file in pushed.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(hub.blobs[file.oid])
    card = SpaceCard((place / "README.md").read_text()).data
    assert (card.sdk, card.app_file, card.models) == ("gradio", "app.py", ["user/tried"])
    needed = (place / "requirements.txt").read_text().splitlines()
    assert {re.match(r"[\w.-]+", line)[0] for line in needed} >= {"av", "gradio", "jinja2", "torch", "transformers"}
    assert "pytest" not in " ".join(needed)

    report = "import limssr, runpy; print(limssr.__file__, flush=True); runpy.run_path('app.py', run_name='__main__')"
    with serve_page(["-c", report], place, **client.variables) as (address, _):
        assert str(place / "limssr" / "__init__.py") in (place / "page.log").read_text()
        visitor = Visitor(address, verbose=False)
        *_, results, _, _ = visitor.predict(0.9, "score", "s000", api_name="/score_example")
        assert "score of s000" in results


def test_examples_that_are_not_there_push_nothing(hub, client, folder, tmp_path):
    said = client.script("publish.py", folder, "other", "--space", "--examples", tmp_path / "none", fails=True)
    assert "none: there is no such folder" in said
    assert not {"user/other", "spaces/user/other"} & set(hub.repositories)
