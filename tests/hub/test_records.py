"""What a published model brings along, and records of it: they are verified in the revision that they name."""

import json

import numpy as np
import pytest
import torch

from limssr.modeling_limssr.neighbours_limssr import NEIGHBOURS_FILE, NeighbourIndex, digest_of_tokens

pytestmark = pytest.mark.slow
PROGRAM = """
import sys
import numpy as np
from limssr.training import predict, publish, verify
from limssr.training.explanation.explanation import explain

def run(script, *words):
    sys.argv = [script.__name__, *words]
    print(script.main())

def compare():
    print([each.sample_id for each in explain("user/tried", features={"video": np.load("clips.npy")}).neighbours])

run(publish, "first", "user/tried")
run(predict, "user/tried", "--video", "clips.npy", "--audit", "record.json")
compare()
run(publish, "second", "user/tried")
run(verify, "record.json")
compare()
"""


def test_a_record_outlives_its_revision_and_an_index_is_published_where_there_is_one(
    hub, client, tiny_model, tiny_processor
):
    model = tiny_model
    states = torch.eye(2, model.config.hidden_size)
    scores, rows = torch.tensor([[25.0], [75.0]], dtype=torch.float64), {"video": torch.arange(2)}
    model.neighbours = NeighbourIndex(["one", "two"], scores, rows, {"video": states}, digest_of_tokens(model))
    for name in ("first", "second"):
        model.save_pretrained(client.home / name)
        tiny_processor.save_pretrained(client.home / name)
        (client.home / name / "README.md").write_text("# a card\n")
        model.model.token_embeddings.data += 0.1  # of the second one
    np.save(client.home / "clips.npy", np.ones((3, 16), "float32"))

    said = client.run("-c", PROGRAM)
    assert f"{NEIGHBOURS_FILE} goes along" in said
    assert "sample: equal\n1 of 1 records are equal\n0\n" in said
    lists = [line for line in said.splitlines() if line.startswith("[")]
    assert lists[0] in ("['one', 'two']", "['two', 'one']")
    assert lists[-1] == "[]"  # the second one has no index, and the first one's is gone
    now, before = hub.repositories["user/tried"].history("main")[:2]
    (record,) = json.loads((client.home / "record.json").read_text())
    assert record["models"][0]["revision"] == before.oid != now.oid
    cards = [hub.blobs[commit.files["README.md"].oid].decode() for commit in (before, now)]
    assert ["2 training performances" in card for card in cards] == [True, False]
    assert [NEIGHBOURS_FILE in commit.files for commit in (before, now)] == [True, False]
