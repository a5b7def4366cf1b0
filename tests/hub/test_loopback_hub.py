"""The loopback Hub answers the unmodified client as the real one does."""

import pytest

from tests.helpers.hub_client import Client
from tests.helpers.loopback_hub import Fault, LoopbackHub

PROGRAM = """
import pathlib, random
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

api, folder = HfApi(), pathlib.Path("files")
(folder / "part").mkdir(parents=True)
(folder / "model.safetensors").write_bytes(random.Random(0).randbytes(3500))
(folder / "README.md").write_text("---\\nlicense: mit\\n---\\nhello")
(folder / "part" / "a.json").write_text("{}")

def refused(kind, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except kind as error:
        return error.response.status_code
    raise AssertionError("nothing was refused")

assert api.whoami()["name"] == "user"
assert api.create_repo("tried", private=True).repo_id == "user/tried"
assert api.create_repo("user/tried", exist_ok=True).repo_id == "user/tried"
assert refused(HfHubHTTPError, api.create_repo, "user/tried") == 409
first = api.upload_folder(repo_id="user/tried", folder_path=folder).oid
api.create_tag("user/tried", tag="v1")
api.create_branch("user/tried", branch="next")
(folder / "README.md").write_text("changed")
(folder / "part" / "a.json").unlink()
second = api.upload_folder(repo_id="user/tried", folder_path=folder, revision="next", delete_patterns="part/*").oid
assert [commit.commit_id for commit in api.list_repo_commits("user/tried", revision="next")][:2] == [second, first]
assert api.list_repo_files("user/tried") == [".gitattributes", "README.md", "model.safetensors", "part/a.json"]
assert api.list_repo_files("user/tried", revision="next") == [".gitattributes", "README.md", "model.safetensors"]
for revision in ("main", "v1", first):
    assert api.model_info("user/tried", revision=revision).sha == first
    there = pathlib.Path(snapshot_download("user/tried", revision=revision))
    assert (there / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (there / "README.md").read_text() != "changed"
assert pathlib.Path(hf_hub_download("user/tried", "README.md", revision="next")).read_text() == "changed"
assert refused(EntryNotFoundError, hf_hub_download, "user/tried", "nothing") == 404
assert refused(RevisionNotFoundError, hf_hub_download, "user/tried", "README.md", revision="never") == 404
assert refused(RepositoryNotFoundError, HfApi(token=False).model_info, "user/tried") == 401
assert refused(HfHubHTTPError, HfApi(token="hf_wrong").model_info, "user/tried") == 401
assert refused(HfHubHTTPError, HfApi(token="hf_reader").upload_folder, repo_id="user/tried", folder_path=folder) == 403
"""


def test_it_serves_the_unmodified_client(tmp_path):
    with LoopbackHub(part_size=1000) as hub:
        hub.faults = [Fault("PUT", "/lfs/.*/2"), Fault("GET", "/cdn/")]
        Client(hub, tmp_path).run("-c", PROGRAM)
        assert hub.count("PUT", "/lfs/") == 5  # four parts, one of them twice
        assert not any(fault.times for fault in hub.faults)


@pytest.mark.parametrize(("asked", "expected"), [("bytes=2-4", b"cde"), ("bytes=6-", b"gh")])
def test_it_serves_ranges(tmp_path, asked, expected):
    (tmp_path / "a.txt").write_bytes(b"abcdefgh")
    program = (
        "import sys; from huggingface_hub.utils import get_session\n"
        f"answer = get_session().get(sys.argv[1], headers={{'Range': {asked!r}}})\n"
        "print(answer.status_code, answer.text, answer.headers['ETag'], len(answer.headers['X-Repo-Commit']))"
    )
    with LoopbackHub() as hub:
        hub.add_repository("someone/letters", tmp_path)
        answer = Client(hub, tmp_path).run("-c", program, f"{hub.endpoint}/someone/letters/resolve/main/a.txt").split()
        oid = hub.repositories["someone/letters"].find("main").files["a.txt"].oid
        assert answer == ["206", expected.decode(), f'"{oid}"', "40"]
