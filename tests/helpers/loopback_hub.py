"""A small Hub on the loopback address: the part of the Hub's HTTP API that the unmodified `huggingface_hub` uses.

It has models, datasets and Spaces with branches, tags and commits, LFS uploads (preupload, batch, PUT in one or
several parts, verify, commit), listings, downloads by revision with ETags, redirects and ranges, read and write tokens
and private repositories. Everything is in memory. A test can let requests fail, see `Fault`.

python -m tests.helpers.loopback_hub [PORT]     serves until interrupted; the token is `hf_writer`
"""

import base64
import hashlib
import json
import re
import socket
import struct
import sys
import threading
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from .repositories import Commit, File, Repository, describe_file, git_oid

TOKENS = {"hf_writer": ("user", "write"), "hf_reader": ("user", "read"), "hf_other": ("someone", "write")}
LFS_SUFFIXES = (".safetensors", ".png", ".bin", ".pt", ".pth", ".pkl", ".gguf", ".parquet", ".arrow")
REPOSITORY = r"(?P<repository>(?:spaces/)?[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>[^/]+)"


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a method whose path matches.

    Attributes:
        method: GET, HEAD, POST or PUT.
        path: regular expression to search for in the path.
        status: status of the answer; None drops the connection in the middle of the body.
        times: number of requests.
        until: nothing goes wrong, but the answer waits for this event.
    """

    method: str
    path: str
    status: int | None = None
    times: int = 1
    until: threading.Event | None = None


class HubError(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **body):
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


class LoopbackHub:
    """Serves at `hub.endpoint` inside `with LoopbackHub() as hub:`.

    Args:
        port: port; 0 takes a free one.
        part_size: size in bytes above which LFS objects are uploaded in parts of this size.

    Attributes:
        repositories: `user/name` -> repository.
        blobs: oid -> content of everything that was ever uploaded.
        requests: method and path of every request, in order.
        faults: faults to come.
    """

    def __init__(self, port: int = 0, part_size: int = 10**9):
        self.part_size = part_size
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def count(self, method: str, path: str) -> int:
        """Number of requests of this method whose path matches."""
        return sum(asked == method and re.search(path, place) is not None for asked, place in self.requests)

    def store(self, content: bytes, is_lfs: bool) -> File:
        oid = hashlib.sha256(content).hexdigest() if is_lfs else git_oid(content)
        self.blobs[oid] = content
        return File(oid, len(content), is_lfs)

    def add_repository(self, name: str, folder: Path) -> Commit:
        """Add a public repository with the files of a folder."""
        files = {file.name: self.store(file.read_bytes(), file.suffix in LFS_SUFFIXES) for file in folder.iterdir()}
        self.repositories[name] = Repository(name, private=False)
        return self.repositories[name].commit("main", "Upload", name.split("/")[0], files)

    def content(self, repository: str, path: str, revision: str = "main") -> bytes:
        return self.blobs[self.repositories[repository].find(revision).files[path].oid]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *arguments) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def answer(self) -> None:
        self.__dict__.pop("user", None)  # it belongs to the last request of this connection
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.hub.requests.append((self.command, url.path))
        fault = self.hub.next_fault(self.command, url.path)
        if fault is not None and fault.until is not None:
            fault.until.wait()
            fault = None
        self.is_to_drop = fault is not None and fault.status is None
        if self.is_to_drop and self.command in ("POST", "PUT"):
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            return self.drop_connection()
        body = self.read_body()
        try:
            if fault is not None and not self.is_to_drop:
                raise HubError(fault.status, "Internal Error - we are working on it", headers={"Retry-After": "0"})
            for method, pattern, action in ROUTES:
                if (found := re.fullmatch(pattern, url.path)) and self.command in method.split():
                    groups = {name: unquote(value) for name, value in found.groupdict(default="").items()}
                    return action(self, body, **groups)
            raise HubError(404, f"no {self.command} {url.path} on this Hub")
        except HubError as error:
            self.send(error.status, error.body, error.headers)

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def drop_connection(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        self.close_connection = True

    def send(self, status: int, content: dict | list | bytes, headers: dict | None = None) -> None:
        is_bytes = isinstance(content, bytes)
        content = content if is_bytes else json.dumps(content).encode()
        kind = "application/octet-stream" if is_bytes else "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.is_to_drop:
            self.wfile.write(content[: len(content) // 2])
            self.drop_connection()
        elif self.command != "HEAD":
            self.wfile.write(content)

    @cached_property
    def user(self) -> tuple[str, str] | None:
        """Name and role of the token; None without one."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")
        return TOKENS[token]

    def repository(self, name: str, write: bool = False) -> Repository:
        """Return the repository, if this user may read it, or write to it."""
        found, owner = self.hub.repositories.get(name), name.removeprefix("spaces/").split("/")[0]
        if found is None or (found.private and (self.user is None or self.user[0] != owner)):
            raise HubError(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
        if write and self.user != (owner, "write"):
            raise HubError(403, f"You don't have the rights to write to {name} with this token")
        return found

    def commit(self, name: str, revision: str) -> Commit:
        commit = self.repository(name).find(revision or "main")
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Users and repositories.

    def whoami(self, body: bytes) -> None:
        if self.user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        role = {"accessToken": {"displayName": "test", "role": self.user[1]}}
        self.send(200, {"type": "user", "name": self.user[0], "fullname": self.user[0], "orgs": [], "auth": role})

    def create_repository(self, body: bytes) -> None:
        asked = json.loads(body)
        if self.user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        owner = asked.get("organization") or self.user[0]
        if self.user != (owner, "write"):
            raise HubError(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        name = f"{owner}/{asked['name']}"
        place = f"{asked['type']}s/{name}" if asked.get("type") in ("dataset", "space") else name
        answer = {"url": f"{self.hub.endpoint}/{place}", "name": name, "id": name}
        name = place.removeprefix("datasets/")  # a Space may be called like a model
        if name in self.hub.repositories:
            raise HubError(409, "You already created this model repo", **answer)
        repository = Repository(name, private=asked.get("visibility") == "private")
        attributes = self.hub.store(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", is_lfs=False)
        repository.commit("main", "initial commit", owner, {".gitattributes": attributes})
        self.hub.repositories[name] = repository
        self.send(200, answer)

    def check_rights(self, body: bytes, repository: str, write: str = "") -> None:
        self.repository(repository, write=bool(write))
        self.send(200, {})

    def create_branch(self, body: bytes, repository: str, branch: str) -> None:
        found = self.repository(repository, write=True)
        if branch in found.branches:
            raise HubError(409, f"Reference already exists: {branch}")
        found.branches[branch] = self.commit(repository, json.loads(body).get("startingPoint", "main")).oid
        self.send(200, {})

    def create_tag(self, body: bytes, repository: str, revision: str) -> None:
        found = self.repository(repository, write=True)
        found.tags[json.loads(body)["tag"]] = self.commit(repository, revision).oid
        self.send(200, {})

    # Uploads.

    def validate_yaml(self, body: bytes) -> None:
        self.send(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, repository: str, revision: str) -> None:
        self.repository(repository, write=True)
        commit, files = self.commit(repository, revision), []
        for file in json.loads(body)["files"]:
            is_lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > 10_000_000
            known = commit.files.get(file["path"])
            mode = {"uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            files.append({"path": file["path"], **mode, **({"oid": known.oid} if known else {})})
        self.send(200, {"files": files, "commitOid": commit.oid})

    def lfs_batch(self, body: bytes, repository: str) -> None:
        self.repository(repository, write=True)
        objects = [{"oid": asked["oid"], "size": asked["size"]} for asked in json.loads(body)["objects"]]
        for entry in objects:
            if entry["oid"] in self.hub.blobs:
                continue  # uploaded before: nothing to do
            place = f"{self.hub.endpoint}/lfs/{entry['oid']}"
            upload = {"href": f"{place}?signature={entry['oid'][:8]}"}
            if entry["size"] > self.hub.part_size:
                count = -(-entry["size"] // self.hub.part_size)
                parts = {str(part): f"{place}/{part}?signature={entry['oid'][:8]}" for part in range(1, count + 1)}
                upload["header"] = {"chunk_size": str(self.hub.part_size), **parts}
            verify = {"href": f"{self.hub.endpoint}/{repository}.git/info/lfs/verify"}
            entry["actions"] = {"upload": upload, "verify": verify}
        self.send(200, {"transfer": "basic", "objects": objects})

    def check_signature(self, oid: str) -> None:
        if self.query.get("signature") != oid[:8] or "Authorization" in self.headers:
            raise HubError(403, "SignatureDoesNotMatch")

    def put_object(self, content: bytes, oid: str) -> None:
        self.check_signature(oid)
        self.store_object(oid, content)
        self.send(200, b"", {"ETag": f'"{oid}"'})

    def put_part(self, content: bytes, oid: str, part: str) -> None:
        self.check_signature(oid)
        self.hub.parts.setdefault(oid, {})[int(part)] = content
        self.send(200, b"", {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

    def complete_parts(self, body: bytes, oid: str) -> None:
        given = {part["partNumber"]: part["etag"].strip('"') for part in json.loads(body)["parts"]}
        parts = self.hub.parts.pop(oid)
        if given != {part: hashlib.sha256(content).hexdigest() for part, content in parts.items()}:
            raise HubError(400, "parts do not match what was uploaded")
        self.store_object(oid, b"".join(parts[part] for part in sorted(parts)))
        self.send(200, {})

    def store_object(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, f"the content is not that of {oid}")
        self.hub.blobs[oid] = content

    def verify_object(self, body: bytes, repository: str) -> None:
        self.repository(repository, write=True)
        asked = json.loads(body)
        if len(self.hub.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise HubError(404, f"{asked['oid']} was not uploaded whole")
        self.send(200, {})

    def create_commit(self, body: bytes, repository: str, revision: str) -> None:
        found = self.repository(repository, write=True)
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self.hub.lock:
            if revision not in found.branches:
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            files = dict(self.commit(repository, revision).files)
            if header.get("parentCommit") not in (None, found.branches[revision]):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            for line in lines:
                self.apply(files, line["key"], line["value"])
            commit = found.commit(revision, header["summary"], self.user[0], files)
        url = f"{self.hub.endpoint}/{repository}/commit/{commit.oid}"
        self.send(200, {"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def apply(self, files: dict[str, File], key: str, value: dict) -> None:
        path = value.get("path")
        if key == "file":
            files[path] = self.hub.store(base64.b64decode(value["content"]), is_lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.hub.blobs:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = File(value["oid"], len(self.hub.blobs[value["oid"]]), is_lfs=True)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        elif key != "header":
            raise HubError(400, f"this Hub knows no {key} in a commit")

    # Listing and download.

    def model_info(self, body: bytes, repository: str, revision: str = "") -> None:
        found, commit = self.repository(repository), self.commit(repository, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        about = {"id": repository, "modelId": repository, "author": repository.split("/")[0], "tags": []}
        self.send(200, {**about, "sha": commit.oid, "private": found.private, "siblings": siblings})

    def tree(self, body: bytes, repository: str, revision: str, folder: str = "") -> None:
        commit, folder = self.commit(repository, revision), folder.strip("/")
        inside = {path: file for path, file in commit.files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        entries = [describe_file(path, file) for path, file in sorted(inside.items())]
        if self.query.get("recursive", "false").lower() != "true":
            start = len(folder) + 1 if folder else 0
            subfolders = sorted(
                {entry["path"][start:].split("/")[0] for entry in entries if "/" in entry["path"][start:]}
            )
            prefix = f"{folder}/" if folder else ""
            entries = [entry for entry in entries if "/" not in entry["path"][start:]]
            entries += [
                {"type": "directory", "path": prefix + name, "oid": "0" * 40, "size": 0} for name in subfolders
            ]
        self.send(200, entries)

    def paths_info(self, body: bytes, repository: str, revision: str) -> None:
        files, paths = self.commit(repository, revision).files, json.loads(body)["paths"]
        self.send(200, [describe_file(path, files[path]) for path in paths if path in files])

    def commits(self, body: bytes, repository: str, revision: str) -> None:
        self.commit(repository, revision)
        date = "2026-01-01T00:00:00.000Z"
        history = self.repository(repository).history(revision)
        about = [{"id": commit.oid, "title": commit.title, "authors": [{"user": commit.author}]} for commit in history]
        self.send(200, [{**entry, "message": "", "date": date} for entry in about])

    def references(self, body: bytes, repository: str) -> None:
        found = self.repository(repository)
        kinds = {"branches": ("heads", found.branches), "tags": ("tags", found.tags)}
        answer = {
            kind: [{"name": name, "ref": f"refs/{place}/{name}", "targetCommit": oid} for name, oid in names.items()]
            for kind, (place, names) in kinds.items()
        }
        self.send(200, {**answer, "converts": []})

    def resolve(self, body: bytes, repository: str, revision: str, path: str) -> None:
        commit = self.commit(repository, revision)
        about = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        file = commit.files.get(path)
        if file is None:
            raise HubError(404, "Entry not found", "EntryNotFound", about)
        if file.is_lfs:  # on another host, as on the real Hub
            linked = {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(file.size)}
            elsewhere = self.hub.endpoint.replace("127.0.0.1", "localhost")  # another host to the client
            place = {"Location": f"{elsewhere}/cdn/{file.oid}?signature={file.oid[:8]}"}
            return self.send(302, b"", {**about, **linked, **place})
        self.send_content(file.oid, about)

    def stored_object(self, body: bytes, oid: str) -> None:
        if self.query.get("signature") != oid[:8]:
            raise HubError(403, "SignatureDoesNotMatch")
        self.send_content(oid, {"Accept-Ranges": "bytes"})

    def send_content(self, oid: str, headers: dict) -> None:
        content, status, headers = self.hub.blobs[oid], 200, {**headers, "ETag": f'"{oid}"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            if first >= len(content):
                raise HubError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self.send(status, content, headers)


API, PLACE = f"/api/(?:(?:models|datasets)/)?{REPOSITORY}", f"/(?:datasets/)?{REPOSITORY}"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create_repository),
    ("GET", f"{API}/auth-check(?P<write>/write)?", Handler.check_rights),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("GET", API, Handler.model_info),
    ("GET", f"{API}/revision/{REVISION}", Handler.model_info),
    ("GET", f"{API}/tree/{REVISION}(?P<folder>/.*)?", Handler.tree),
    ("POST", f"{API}/paths-info/{REVISION}", Handler.paths_info),
    ("GET", f"{API}/commits/{REVISION}", Handler.commits),
    ("GET", f"{API}/refs", Handler.references),
    ("POST", f"{API}/branch/(?P<branch>[^/]+)", Handler.create_branch),
    ("POST", f"{API}/tag/{REVISION}", Handler.create_tag),
    ("POST", f"{API}/preupload/{REVISION}", Handler.preupload),
    ("POST", f"{API}/commit/{REVISION}", Handler.create_commit),
    ("POST", rf"{PLACE}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("POST", rf"{PLACE}\.git/info/lfs/verify", Handler.verify_object),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.put_object),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})/(?P<part>[0-9]+)", Handler.put_part),
    ("POST", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.complete_parts),
    ("GET HEAD", "/cdn/(?P<oid>[0-9a-f]{64})", Handler.stored_object),
    ("GET HEAD", f"{PLACE}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
]


if __name__ == "__main__":
    with LoopbackHub(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as served:
        print(f"export HF_ENDPOINT={served.endpoint} HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_writer", flush=True)
        threading.Event().wait()
