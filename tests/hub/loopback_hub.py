"""A Hub on loopback: what huggingface_hub 2.4 asks for when it uploads and downloads a model, kept in memory.

Its clients need `HF_HUB_DISABLE_XET=1`: where the package hf_xet is installed, the client uploads through Xet without
asking the server, and a server cannot make it use plain LFS.

    with LoopbackHub() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment})
        hub.repositories["me/model"].files("main")["README.md"]
"""

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USER, TOKEN = "me", "hf_loopback"


@dataclass
class Repository:
    """One model: its commits, each a table of files, and its branches."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.commit("main", {}, "initial commit")

    def commit(self, branch, files, message):
        self.messages.append(message)
        sha = hashlib.sha1(f"{id(self)} {len(self.messages)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolve(self, revision):
        return revision if revision in self.commits else self.branches.get(revision)

    def files(self, revision):
        return self.commits[self.resolve(revision)]


class LoopbackHub:
    """The server and its state.

    `cut_uploads` says how the next uploads of large files end in the middle: "close" breaks the connection, "500" is
    answered.
    """

    def __init__(self, user=USER):
        self.user = user
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut_uploads: list[str] = []

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def environment(self):
        """What a client's process needs."""
        values = {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        return values | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class RefusedError(Exception):
    """An answer with an error: the status, the code that the client looks for, and words."""


class Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        for method, pattern, action in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                try:
                    return action(self, *found.groups())
                except RefusedError as error:
                    status, code, words = error.args
                    return self.send_json({"error": words}, status, {"X-Error-Code": code, "X-Error-Message": words})
        return self.send_json({"error": "no such place"}, 404, {})

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 - http.server's names

    def send_json(self, value, status=200, headers=None):
        self.send_bytes(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send_bytes(self, content, status=200, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def repository(self, name):
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.signed_in()):
            raise RefusedError(404, "RepoNotFound", "Repository not found")
        return found

    def signed_in(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def revision(self, name, revision):
        repository = self.repository(name)
        sha = repository.resolve(revision)
        if sha is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, sha

    def create(self):
        asked = json.loads(self.body())
        owner = asked.get("organization") or self.hub.user
        if not self.signed_in() or owner != self.hub.user:
            raise RefusedError(403, "Forbidden", f"You don't have the rights to create a model under {owner}")
        name = f"{owner}/{asked['name']}"
        exists = name in self.hub.repositories
        if not exists:
            self.hub.repositories[name] = Repository(
                private=asked.get("visibility") == "private" or asked.get("private", False)  # newer clients, older ones
            )
        self.send_json({"url": f"{self.hub.url}/{name}"}, 409 if exists else 200)

    def who(self):
        self.send_json({"name": self.hub.user, "type": "user", "orgs": []})

    def validate_card(self):
        self.body()
        self.send_json({"errors": [], "warnings": []})

    def info(self, name, revision=None):
        repository, sha = self.revision(name, revision or "main")
        siblings = [{"rfilename": path} for path in repository.files(sha)]
        self.send_json({"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []})

    def refs(self, name):
        branches = self.repository(name).branches.items()
        named = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in branches]
        self.send_json({"branches": named, "tags": [], "converts": []})

    def create_branch(self, name, branch):
        self.body()
        repository = self.repository(name)
        exists = branch in repository.branches
        repository.branches.setdefault(branch, repository.branches["main"])
        self.send_json({}, 409 if exists else 200)

    def tree(self, name, revision, folder=None):
        repository, sha = self.revision(name, revision)
        inside = {p: c for p, c in repository.files(sha).items() if folder is None or p.startswith(f"{folder}/")}
        if folder is not None and not inside:
            raise RefusedError(404, "EntryNotFound", f"{folder} does not exist")
        self.send_json([{"type": "file", "path": p, "size": len(c), "oid": etag(c)} for p, c in inside.items()])

    def preupload(self, name, revision):
        self.revision(name, revision)
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".parquet")) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body())["files"]
        ]
        self.send_json({"files": modes})

    def large_file_batch(self, name):
        self.repository(name)
        objects = json.loads(self.body())["objects"]
        for entry in objects:
            if entry["oid"] not in self.hub.large_files:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/large/{entry['oid']}", "header": {}}}
        self.send_json({"transfer": "basic", "objects": objects})

    def upload_large_file(self, oid):
        if self.hub.cut_uploads:
            return self.cut_upload(self.hub.cut_uploads.pop(0))
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.large_files[oid] = content
        return self.send_json({})

    def cut_upload(self, how):
        """End an upload in the middle; all of it is read, since a close with unread bytes may take the answer away."""
        length = int(self.headers["Content-Length"])
        self.rfile.read(length // 2)
        self.close_connection = True
        if how == "500":
            self.send_json({"error": "the disk is full"}, 500, {"Connection": "close"})
        self.connection.shutdown(socket.SHUT_WR)
        self.rfile.read(length - length // 2)

    def commit(self, name, revision):
        repository, sha = self.revision(name, revision)
        files, message = dict(repository.files(sha)), ""
        for line in self.body().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
        oid = repository.commit(revision, files, message)
        self.send_json({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def file(self, name, revision, path):
        repository, sha = self.revision(name, revision)
        if path not in repository.files(sha):
            raise RefusedError(404, "EntryNotFound", f"{path} does not exist")
        content = repository.files(sha)[path]
        self.send_bytes(content, headers={"ETag": f'"{etag(content)}"', "X-Repo-Commit": sha})


def etag(content):
    return hashlib.sha256(content).hexdigest()


NAME = r"([^/]+/[^/]+)"
ROUTES = [
    ("POST", "/api/repos/create", Handler.create),
    ("GET", "/api/whoami-v2", Handler.who),
    ("POST", "/api/validate-yaml", Handler.validate_card),
    ("GET", f"/api/models/{NAME}", Handler.info),
    ("GET", f"/api/models/{NAME}/revision/(.+)", Handler.info),
    ("GET", f"/api/models/{NAME}/refs", Handler.refs),
    ("POST", f"/api/models/{NAME}/branch/(.+)", Handler.create_branch),
    ("GET", f"/api/models/{NAME}/tree/([^/]+)", Handler.tree),
    ("GET", f"/api/models/{NAME}/tree/([^/]+)/(.+)", Handler.tree),
    ("POST", f"/api/models/{NAME}/preupload/(.+)", Handler.preupload),
    ("POST", f"/{NAME}\\.git/info/lfs/objects/batch", Handler.large_file_batch),
    ("PUT", "/large/([0-9a-f]+)", Handler.upload_large_file),
    ("POST", f"/api/models/{NAME}/commit/(.+)", Handler.commit),
    ("GET HEAD", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.file),
]
