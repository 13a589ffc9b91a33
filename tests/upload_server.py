"""A server on loopback that speaks the hub's protocol of uploads, as huggingface_hub 2 uses it:
repositories, branches, kinds of files, LFS in one part or several, xet, commits on a parent;
and downloads of what was committed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.loopback import QuietHandler, running
from tests.patience import PATIENCE
from tests.xet_store import Store


@dataclass
class Repository:
    private: bool
    branches: dict[str, str]  #: name: commit
    commits: dict[str, dict[str, bytes]]  #: files by path

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.branches.get(revision, revision))


@dataclass
class Hub:
    """What is stored, what should go wrong, and what was asked."""

    repos: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  #: LFS objects by sha256
    parts: dict[str, bytes] = field(default_factory=dict)
    xet: Store = field(default_factory=Store)
    chunk: int | None = None  #: size of the parts of an upload; None takes it in one
    fail: dict[str, int] = field(default_factory=dict)  #: a word in a request: the status of every answer ...
    fail_times: int = 10**9  #: ... or of the first so many
    wait: int | None = None  #: seconds after which they want to be asked again
    hold: str = ""  #: a word in a request: who asks there waits, until all is let go
    held: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    cut: int = 0  #: so many uploads are cut off in the middle
    meanwhile: bool = False  #: somebody else commits just before the next commit
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        sha = os.urandom(20).hex()  # never one that a cache has
        self.repos[repo].commits[sha] = files
        self.repos[repo].branches[branch] = sha
        return sha

    def create(self, repo: str, private: bool = False, files: dict[str, bytes] | None = None) -> None:
        self.repos[repo] = Repository(private, {}, {})
        self.commit(repo, "main", {".gitattributes": b"", **(files or {})})

    def count(self, word: str) -> int:
        return sum(word in request for request in self.requests)


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    with running(server) as hub.url:
        yield hub


class _Handler(QuietHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._serve()

    do_GET = do_POST = do_PUT = do_HEAD

    def _serve(self) -> None:
        path = unquote(self.path.partition("?")[0])
        asked = f"{self.command} {self.path}"
        self.hub.requests.append(asked)
        length = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT" and self.hub.cut:
            self.hub.cut -= 1
            self.rfile.read(length // 2)
            self.close_connection = True
            return None
        if self.hub.hold and self.hub.hold in asked:
            self.rfile.read(length // 2)
            self.hub.held.set()
            self.hub.let_go.wait(PATIENCE)
            self.close_connection = True
            return None
        body = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        status = next((status for word, status in self.hub.fail.items() if word in asked), None)
        if status is not None and self.hub.fail_times:
            self.hub.fail_times -= 1
            # as careless as a server can be: what was sent comes back
            later = {} if self.hub.wait is None else {"Retry-After": str(self.hub.wait)}
            return self._send(status, {"error": f"no: {self.headers.get('Authorization')}"}, later)
        routes: list[tuple[str, Any]] = [
            ("/api/validate-yaml", lambda: self._send(200, {"errors": [], "warnings": []})),
            ("/api/repos/create", lambda: self._create(json.loads(body))),
            (r"/api/models/(\w+/\w+)/revision/(.+)", self._info),
            (r"/api/models/(\w+/\w+)/branch/(.+)", self._branch),
            (r"/api/models/(\w+/\w+)/preupload/(.+)", lambda repo, _: self._preupload(json.loads(body))),
            (r"/api/models/(\w+/\w+)/commit/(.+)", lambda repo, branch: self._commit(repo, branch, body)),
            (r"/(\w+/\w+)\.git/info/lfs/objects/batch", lambda repo: self._batch(json.loads(body))),
            (r"/lfs/(\w+)", lambda oid: self._stored(oid, body)),
            (r"/part/(\w+)/(\d+)", lambda oid, number: self._part(oid, number, body)),
            (r"/whole/(\w+)", lambda oid: self._whole(oid, json.loads(body))),
            (r"/api/models/(\w+/\w+)/xet-(?:read|write)-token/(.+)", lambda _, __: self._xet_token()),
            (r"/v1/xorbs/default/(\w+)", lambda name: self._xorb(name, body)),
            (r"/xorb/(\w+)", lambda name: self._ranged(self.hub.xet.xorbs[name])),
            ("/v1/shards", lambda: self._shard(body)),
            (
                r"/v1/reconstructions/(\w+)",
                lambda name: self._send(200, self.hub.xet.reconstruction(name, self.hub.url)),
            ),
            ("/verify", lambda: self._send(200, {})),
            (r"/(\w+/\w+)/resolve/([^/]+)/(.+)", self._file),
        ]
        for pattern, answer in routes:
            if found := re.fullmatch(pattern, path):
                return answer(*found.groups())
        return self._send(404, {})

    def _chunked(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.hub.repos:
            return self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"})
        self.hub.create(repo, asked.get("visibility") == "private")
        return self._send(200, {"url": f"{self.hub.url}/{repo}", "id": "1", "name": repo})

    def _info(self, repo: str, revision: str) -> None:
        there = self.hub.repos.get(repo)
        if there is None or there.files(revision) is None:
            return self._send(404, {}, {"X-Error-Code": "RevisionNotFound" if there else "RepoNotFound"})
        sha = there.branches.get(revision, revision)
        files = [{"rfilename": name} for name in there.files(revision) or ()]
        return self._send(200, {"id": repo, "sha": sha, "private": there.private, "siblings": files, "tags": []})

    def _branch(self, repo: str, branch: str) -> None:
        self.hub.repos[repo].branches[branch] = self.hub.repos[repo].branches["main"]
        self._send(200, {})

    def _preupload(self, asked: dict[str, Any]) -> None:
        names = [file["path"] for file in asked["files"]]
        modes = {name: "lfs" if name.endswith((".safetensors", ".bin")) else "regular" for name in names}
        self._send(200, {"files": [{"path": n, "uploadMode": modes[n], "shouldIgnore": False} for n in names]})

    def _batch(self, asked: dict[str, Any]) -> None:
        answers: list[dict[str, Any]] = []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            upload: dict[str, Any] = {"href": f"{self.hub.url}/lfs/{oid}"}
            if self.hub.chunk:
                count = -(-size // self.hub.chunk)
                hrefs = {str(n): f"{self.hub.url}/part/{oid}/{n}" for n in range(1, count + 1)}
                upload = {"href": f"{self.hub.url}/whole/{oid}", "header": {"chunk_size": str(self.hub.chunk), **hrefs}}
            actions = {"upload": upload, "verify": {"href": f"{self.hub.url}/verify"}}
            answers.append({"oid": oid, "size": size} | ({} if oid in self.hub.stored else {"actions": actions}))
        self._send(200, {"transfer": "multipart" if self.hub.chunk else "basic", "objects": answers})

    def _stored(self, oid: str, data: bytes) -> None:
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.stored[oid] = data
        self._send(200, {})

    def _part(self, oid: str, number: str, data: bytes) -> None:
        self.hub.parts[f"{oid}/{number}"] = data
        self._send(200, {}, {"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    def _whole(self, oid: str, asked: dict[str, Any]) -> None:
        self._stored(oid, b"".join(self.hub.parts[f"{oid}/{part['partNumber']}"] for part in asked["parts"]))

    def _xet_token(self) -> None:
        token, until = "xet_secretsecret", str(int(time.time()) + 3600)
        names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
        answer = {"casUrl": self.hub.url, "accessToken": token, "exp": int(until)}
        self._send(200, answer, dict(zip(names, (self.hub.url, token, until), strict=True)))

    def _xorb(self, name: str, data: bytes) -> None:
        self.hub.xet.xorbs[name] = data
        self._send(200, {"was_inserted": True})

    def _shard(self, data: bytes) -> None:
        self.hub.xet.take_shard(data)
        self.hub.stored |= {sha: self.hub.xet.content(name) for sha, name in self.hub.xet.hashes.items()}
        self._send(200, {"result": 1})

    def _ranged(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert asked
        begin, last = map(int, asked.groups())
        self._send(206, data[begin : last + 1], {"Content-Range": f"bytes {begin}-{last}/{len(data)}"})

    def _commit(self, repo: str, branch: str, body: bytes) -> None:
        there = self.hub.repos[repo]
        if self.hub.meanwhile:
            self.hub.meanwhile = False
            self.hub.commit(repo, branch, dict(there.files(branch) or {}))
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["value"].get("parentCommit", there.branches[branch]) != there.branches[branch]:
            return self._send(412, {"error": "the branch has moved"})
        files = dict(there.files(branch) or {})
        for line in lines[1:]:
            value, key = line["value"], line["key"]
            if key == "deletedFile":
                del files[value["path"]]
                continue
            is_file = key == "file"
            files[value["path"]] = base64.b64decode(value["content"]) if is_file else self.hub.stored[value["oid"]]
        sha = self.hub.commit(repo, branch, files)
        return self._send(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha})

    def _file(self, repo: str, revision: str, name: str) -> None:
        there = self.hub.repos.get(repo)
        files = there.files(revision) if there else None
        if there is None or files is None or name not in files:
            code = "EntryNotFound" if files is not None else "RevisionNotFound" if there else "RepoNotFound"
            return self._send(404, {}, {"X-Error-Code": code})
        data, sha = files[name], there.branches.get(revision, revision)
        digest = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": sha, "ETag": f'"{digest}"'}
        if xet := self.hub.xet.hashes.get(digest):
            headers |= {
                "X-Xet-Hash": xet,
                "X-Xet-Refresh-Route": f"{self.hub.url}/api/models/{repo}/xet-read-token/{sha}",
            }
        return self._send(200, data, headers)

    def _send(self, status: int, answer: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
