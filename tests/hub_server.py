"""The Hugging Face Hub's HTTP API on this machine, as far as huggingface_hub needs it for reading and committing.

Repositories are kept in memory: name -> revisions -> files. What a request must answer was taken from the requests of
the real client.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from weights_server import Quiet


@dataclass
class Repository:
    """Files by revision; `main` is a branch, every commit has a name of its own too."""

    private: bool = False
    gated: bool = False
    revisions: dict = field(default_factory=lambda: {"main": {}})
    heads: dict = field(default_factory=lambda: {"main": commit_name({})})


def commit_name(files):
    """A commit's id, from its content."""
    return hashlib.sha1(b"".join(k.encode() + hashlib.sha1(v).digest() for k, v in sorted(files.items()))).hexdigest()


class HubServer:
    """Attributes:
    repositories: by name.
    tokens: those that may write, and see private repositories.
    faults: (pattern of a path, function of a handler), each used once.
    log: (method, path) of every request.
    """

    def __init__(self):
        self.repositories, self.tokens, self.faults, self.log = {}, {"hf_good"}, [], []
        self.uploads, self.lock, self.connections = {}, threading.Lock(), 0
        self.httpd = Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"owner": self}))
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"
        self.thread = threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.httpd.shutdown()
        self.httpd.server_close()

    def put(self, name, files, revision="main", **options):
        """Commit files to a repository, which is made if need be."""
        found = self.repositories.setdefault(name, Repository(**options))
        commit = commit_name(files)
        found.revisions[revision] = found.revisions[commit] = dict(files)
        found.heads[revision] = found.heads[commit] = commit
        return commit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: HubServer

    def do_GET(self):
        self.dispatch()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - http.server's names

    def dispatch(self):
        length = int(self.headers.get("Content-Length", 0))
        self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.owner.log.append((self.command, path))
        for i, (pattern, fault) in enumerate(self.owner.faults):
            if re.search(pattern, path):
                del self.owner.faults[i]
                if fault(self):
                    return
                break
        for method, pattern, action in ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                action(self, *found.groups())
                return
        self.fail(404)

    def repository(self, name, revision="main"):
        """The files of a revision and its commit; None after an error was answered."""
        found = self.owner.repositories.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if found is None or (found.private and token not in self.owner.tokens):
            self.fail(401 if not token else 404, X_Error_Code="RepoNotFound")
        elif found.gated and token not in self.owner.tokens:
            self.fail(403, X_Error_Code="GatedRepo")
        elif revision not in found.heads:
            self.fail(404, X_Error_Code="RevisionNotFound")
        else:
            return found.revisions[revision], found.heads[revision]
        return None

    def may_write(self):
        if self.headers.get("Authorization", "").removeprefix("Bearer ") in self.owner.tokens:
            return True
        self.fail(401)
        return False

    def fail(self, status, **headers):
        self.send_response(status)
        for key, value in {"Content-Length": 0, **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass

    def info(self, name, revision="main"):
        if found := self.repository(name, revision):
            files, commit = found
            siblings = [{"rfilename": path} for path in files]
            private = self.owner.repositories[name].private
            self.answer({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "private": private})

    def tree(self, name, revision):
        if found := self.repository(name, revision):
            self.answer([describe(path, content) for path, content in found[0].items()])

    def resolve(self, name, revision, path):
        found = self.repository(name, revision)
        if not found:
            return
        files, commit = found
        if path not in files:
            self.fail(404, X_Error_Code="EntryNotFound")
            return
        content = files[path]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start:])

    def whoami(self):
        if self.may_write():
            self.answer({"type": "user", "name": "ada", "orgs": []})

    def create(self):
        if self.may_write():
            asked = json.loads(self.body)
            name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
            if name in self.owner.repositories:
                self.answer({"url": f"{self.owner.url}/{name}", "id": name, "name": name}, status=409)
                return
            self.owner.put(
                name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=asked.get("visibility") == "private"
            )
            self.answer({"url": f"{self.owner.url}/{name}", "id": name, "name": name})

    def branch(self, name, revision):
        if self.may_write():
            self.owner.put(name, self.owner.repositories[name].revisions["main"], revision)
            self.answer({})

    def validate(self):
        self.answer({"errors": [], "warnings": []})

    def preupload(self, name, revision):
        if self.may_write() and self.repository(name, revision):
            asked = json.loads(self.body)["files"]
            files = [{"path": each["path"], "uploadMode": mode(each["path"]), "shouldIgnore": False} for each in asked]
            self.answer({"files": files})

    def batch(self, name):
        if self.may_write():
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.owner.url}/upload/{each['oid']}"}}}
                for each in json.loads(self.body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})

    def upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.fail(400)
            return
        self.owner.uploads[oid] = self.body
        self.fail(200)

    def commit(self, name, revision):
        if not (self.may_write() and (found := self.repository(name, revision))):
            return
        files = dict(found[0])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.owner.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.owner.put(name, files, revision)
        self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.owner.url}/{name}/commit/{commit}"})


def mode(path):
    return "lfs" if path.endswith((".safetensors", ".bin")) else "regular"


def describe(path, content):
    found = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if mode(path) == "lfs":
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return found


NAME = r"([^/]+/[^/]+)"
ROUTES = [
    ("GET", f"/api/models/{NAME}", Handler.info),
    ("GET", f"/api/models/{NAME}/revision/([^/]+)", Handler.info),
    ("GET", f"/api/models/{NAME}/tree/([^/]+)", Handler.tree),
    ("GET", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("HEAD", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", f"/api/models/{NAME}/branch/([^/]+)", Handler.branch),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", f"/api/models/{NAME}/preupload/([^/]+)", Handler.preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/upload/([0-9a-f]+)", Handler.upload),
    ("POST", f"/api/models/{NAME}/commit/([^/]+)", Handler.commit),
]
