"""Repositories of the loopback Hub: commits of files, branches and tags."""

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class File:
    """A file of a commit; `oid` is the SHA-256 of an LFS object, otherwise git's SHA-1 of the blob."""

    oid: str
    size: int
    is_lfs: bool


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    author: str
    files: dict[str, File]


@dataclass
class Repository:
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, author: str, files: dict[str, File]) -> Commit:
        parent = self.branches.get(branch)
        listing = sorted((path, file.oid) for path, file in files.items())
        oid = hashlib.sha1(repr((parent, title, len(self.commits), listing)).encode()).hexdigest()  # noqa: S324
        self.commits[oid] = Commit(oid, parent, title, author, files)
        self.branches[branch] = oid
        return self.commits[oid]

    def find(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def history(self, revision: str) -> list[Commit]:
        """Return the commits up to a revision, newest first."""
        commits, commit = [], self.find(revision)
        while commit is not None:
            commits.append(commit)
            commit = self.commits.get(commit.parent)
        return commits


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 (what git does)


def describe_file(path: str, file: File) -> dict:
    lfs = {"lfs": {"oid": file.oid, "size": file.size, "pointerSize": 134}} if file.is_lfs else {}
    return {"type": "file", "path": path, "size": file.size, "oid": file.oid[:40], **lfs}
