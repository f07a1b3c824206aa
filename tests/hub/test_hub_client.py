"""The Hugging Face Hub: the real client against a server on this machine, reading and publishing."""

import hashlib
import importlib
import json
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from hub_server import HubServer

import zoo
from zoo.cli.main import main
from zoo.errors import DownloadError, MissingPackage, MissingWeights, OptionError
from zoo.hub.hub_client import fetch
from zoo.hub.resolve import find_checkpoint

hub = pytest.importorskip("huggingface_hub")
import huggingface_hub.constants  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's upload, in httpx


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small model in transformers' layout."""
    path = tmp_path_factory.mktemp("hub") / "tiny"
    zoo.save(zoo.create("test-tiny", seed=5), path, to="huggingface")
    return path


@pytest.fixture
def server(checkpoint, tmp_path, monkeypatch):
    """A Hub with a repository ada/tiny, and an empty cache of the client, which reads its settings at import."""
    constants = huggingface_hub.constants
    with HubServer() as running:
        monkeypatch.delenv("ZOO_OFFLINE")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "zoo"))
        for name, value in {
            "ENDPOINT": running.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        # The client waits up to 31 s between its tries; here it does not.
        patient = importlib.import_module("huggingface_hub.utils._http")
        monkeypatch.setattr(patient, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
        monkeypatch.setattr(importlib.import_module("huggingface_hub.hf_api").api, "endpoint", running.url)
        running.put("ada/tiny", {path.name: path.read_bytes() for path in checkpoint.iterdir()})
        yield running


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def fetched(server):
    """Names of the files that were downloaded."""
    return sorted(path.rpartition("/")[2] for method, path in server.log if method == "GET" and "/resolve/" in path)


def test_a_repository_is_a_checkpoint(server, checkpoint):
    """hf:org/name works wherever a checkpoint is named, and its files are downloaded once."""
    assert zoo.content_hash(checkpoint) == zoo.content_hash("hf:ada/tiny")
    assert sorted(path.name for path in checkpoint.iterdir()) == fetched(server)

    done = run("inspect", "hf:ada/tiny", "--json")

    assert (0, "huggingface") == (done.exit_code, json.loads(done.stdout)["format"])
    assert len(list(checkpoint.iterdir())) == len(fetched(server))


def test_of_several_kinds_of_weights_one_is_downloaded(server, checkpoint):
    """Weights for other libraries and files in folders are not downloaded."""
    others = {"pytorch_model.bin": b"pickle", "tf_model.h5": b"hdf5", "onnx/model.onnx": b"onnx", "README.md": b"#"}
    server.put("ada/many", {**server.repositories["ada/tiny"].revisions["main"], **others})

    assert zoo.content_hash(checkpoint) == zoo.content_hash("hf:ada/many")
    assert sorted(path.name for path in checkpoint.iterdir()) == fetched(server)


def test_a_repository_of_one_file_is_that_file(server, checkpoint, tmp_path):
    """A repository with a single weight file and no config.json gives that file."""
    zoo.convert(checkpoint, tmp_path / "tiny.safetensors")
    server.put("ada/file", {"tiny.safetensors": (tmp_path / "tiny.safetensors").read_bytes(), "README.md": b"# tiny"})

    assert "tiny.safetensors" == fetch("ada/file").name
    assert zoo.content_hash(checkpoint) == zoo.content_hash("hf:ada/file")


def test_a_revision_is_what_it_was(server, checkpoint):
    """A branch, a tag or a commit can follow an @."""
    old = server.repositories["ada/tiny"].heads["main"]
    zoo.save(zoo.create("test-tiny", seed=6), checkpoint.parent / "new", to="huggingface", force=True)
    server.put("ada/tiny", {path.name: path.read_bytes() for path in (checkpoint.parent / "new").iterdir()})

    assert zoo.content_hash(checkpoint) == zoo.content_hash(f"hf:ada/tiny@{old}")
    assert zoo.content_hash(checkpoint.parent / "new") == zoo.content_hash("hf:ada/tiny@main")


def test_what_was_fetched_is_there_without_network(server, checkpoint, monkeypatch):
    """ZOO_OFFLINE contacts no server, and the error names what is missing."""
    fetch("ada/tiny")
    server.log.clear()
    monkeypatch.setenv("ZOO_OFFLINE", "1")

    assert zoo.content_hash(checkpoint) == zoo.content_hash(find_checkpoint("hf:ada/tiny"))
    with pytest.raises(MissingWeights, match=r"hf:ada/other is not in the Hub's cache"):
        find_checkpoint("hf:ada/other")
    assert [] == server.log


def test_a_repository_is_brought_to_a_directory(server, checkpoint, tmp_path, monkeypatch):
    """A repository can be downloaded into a directory with SHA256SUMS and without links, also from the Hub's cache
    without a network.
    """
    names = {path.name for path in checkpoint.iterdir()}
    assert 0 == run("download", "hf:ada/tiny", "--to", tmp_path / "a").exit_code
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    for _ in range(2):  # existing files do not matter
        done = run("download", "hf:ada/tiny@main", "--to", tmp_path / "b")
        assert 0 == done.exit_code, done.output

    for directory in (tmp_path / "a", tmp_path / "b"):
        assert names | {"SHA256SUMS"} == {path.name for path in directory.iterdir()}
        assert not any(path.is_symlink() for path in directory.iterdir())
        assert zoo.content_hash(checkpoint) == zoo.content_hash(directory)


def test_a_repository_of_one_file_is_brought_to_a_directory(server, checkpoint, tmp_path):
    """A repository with a single file can be downloaded into a directory."""
    zoo.convert(checkpoint, tmp_path / "tiny.safetensors")
    server.put("ada/file", {"tiny.safetensors": (tmp_path / "tiny.safetensors").read_bytes()})

    done = run("download", "hf:ada/file", "--to", tmp_path / "stick")

    assert 0 == done.exit_code, done.output
    assert {"tiny.safetensors", "SHA256SUMS"} == {path.name for path in (tmp_path / "stick").iterdir()}


def test_a_registered_name_may_stand_for_a_repository(server, checkpoint, tmp_path, monkeypatch):
    """A table entry can name a Hub repository; a copy in the Hub's cache is converted without a network."""
    (tmp_path / "sources.toml").write_text('[test-tiny.huggingface]\nhub = "ada/tiny"\n')
    monkeypatch.setenv("ZOO_SOURCES", str(tmp_path / "sources.toml"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(MissingWeights, match=r"hf:ada/tiny is not in the Hub's cache.*zoo download"):
        find_checkpoint("test-tiny")
    monkeypatch.delenv("ZOO_OFFLINE")
    fetch("ada/tiny")
    monkeypatch.setenv("ZOO_OFFLINE", "1")

    assert zoo.content_hash(checkpoint) == zoo.content_hash("test-tiny")


def test_private_repositories_need_a_token(server, checkpoint, monkeypatch):
    """HF_TOKEN is used as by other programs."""
    server.put("ada/secret", server.repositories["ada/tiny"].revisions["main"], private=True)
    with pytest.raises(DownloadError, match=r"hf:ada/secret.*HF_TOKEN"):
        fetch("ada/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_good")

    assert zoo.content_hash(checkpoint) == zoo.content_hash("hf:ada/secret")


def answer(status, **headers):
    def fault(handler):
        handler.fail(status, **headers)
        return True

    return fault


@pytest.mark.parametrize(
    ("name", "fault", "error", "said"),
    [
        ("ada/none", None, DownloadError, "repository hf:ada/none does not exist"),
        ("ada/tiny@nope", None, DownloadError, "no such revision"),
        ("tiny", None, OptionError, "write hf:org/name"),
        ("ada/ti ny", None, OptionError, "not the name of a repository"),
        ("ada/tiny", answer(403), DownloadError, "HTTP 403"),
        ("ada/tiny", answer(429), DownloadError, "HTTP 429; wait"),
        ("ada/tiny", answer(500), DownloadError, "HTTP 500; try again later"),
        ("ada/gated", None, DownloadError, "is gated"),
    ],
)
def test_what_cannot_be_fetched_is_said(server, name, fault, error, said):
    """Each failure is one error that says what to do."""
    server.put("ada/gated", {}, gated=True)
    if fault:
        server.faults += [("/api/models/", fault)] * 9

    with pytest.raises(error, match=said):
        fetch(name)


@pytest.mark.parametrize("kind", ["cut", "500"])
def test_a_broken_transfer_is_resumed_by_the_client(server, checkpoint, kind):
    """huggingface_hub retries, and the downloaded file is intact."""

    def cut(handler):
        content = server.repositories["ada/tiny"].revisions["main"]["model.safetensors"]
        handler.send_response(200)
        handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        handler.close_connection = True
        return True

    fault = cut if kind == "cut" else answer(500)
    server.faults.append(
        ("resolve/.*/model.safetensors", lambda handler: handler.command == "GET" and fault(handler)),
    )

    assert zoo.content_hash(checkpoint) == zoo.content_hash("hf:ada/tiny")


def test_wrong_bytes_are_not_kept(server, checkpoint):
    """Wrong bytes, which huggingface_hub does not notice, are found by their hash, and the next call downloads the
    right ones.
    """

    def other(handler):
        content = server.repositories["ada/tiny"].revisions["main"]["model.safetensors"]
        handler.send_response(200)
        handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:-1] + bytes([content[-1] ^ 1]))
        return True

    server.faults.append(("resolve/.*/model.safetensors", lambda handler: handler.command == "GET" and other(handler)))
    server.faults.insert(0, ("resolve/.*/model.safetensors", lambda handler: False))  # its HEAD

    with pytest.raises(DownloadError, match="hf:ada/tiny sends a file whose SHA-256 is"):
        fetch("ada/tiny")
    assert zoo.content_hash(checkpoint) == zoo.content_hash("hf:ada/tiny")


def test_no_server_is_one_sentence(server, checkpoint):
    """If the connection is refused, there is one error; a repository in the Hub's cache is still found."""
    fetch("ada/tiny")
    server.httpd.shutdown()
    server.httpd.server_close()
    hub.close_session()  # or its open connections would be answered yet

    assert zoo.content_hash(checkpoint) == zoo.content_hash("hf:ada/tiny")
    with pytest.raises(MissingWeights, match="hf:ada/other is not in the Hub's cache"):
        fetch("ada/other")


def test_without_the_package_the_extra_is_named(monkeypatch):
    """Without huggingface_hub, the error says how to install it."""
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)

    with pytest.raises(MissingPackage, match=r"gpt2-zoo\[hub\]"):
        fetch("ada/tiny")


def test_what_is_pushed_comes_back(server, checkpoint, tmp_path, monkeypatch):
    """A zoo file becomes a repository in transformers' layout, whose card has the hashes of its files."""
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    zoo.convert(checkpoint, tmp_path / "m.safetensors")

    done = run("push", tmp_path / "m.safetensors", "ada/new", "--private", "--license", "mit", "--json")

    assert 0 == done.exit_code, done.output
    printed = json.loads(done.stdout)
    assert server.repositories["ada/new"].private
    assert printed["commit"].startswith(f"{server.url}/ada/new/commit/")
    files = server.repositories["ada/new"].revisions["main"]
    assert zoo.content_hash(checkpoint) == printed["content_blake3"] == zoo.content_hash("hf:ada/new")
    card = files["README.md"].decode()
    for name, content in files.items():
        if name not in ("README.md", ".gitattributes"):
            assert hashlib.sha256(content).hexdigest() == printed["files"][name]
            assert f"| {name} | `{printed['files'][name]}` |" in card
    assert 'license: "mit"' in card
    assert printed["content_blake3"] in card


def test_a_repository_with_files_is_changed_only_if_asked(server, checkpoint, monkeypatch):
    """A repository with files is changed only with update; a new branch is created."""
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    before = dict(server.repositories["ada/tiny"].revisions["main"])

    refused = run("push", checkpoint, "ada/tiny")
    assert (1, before) == (refused.exit_code, server.repositories["ada/tiny"].revisions["main"])
    assert "--update" in refused.stderr

    done = run("push", checkpoint, "ada/tiny", "--update", "--revision", "second", "--message", "again")
    assert 0 == done.exit_code, done.output
    assert before == server.repositories["ada/tiny"].revisions["main"]
    assert "README.md" in server.repositories["ada/tiny"].revisions["second"]


@pytest.mark.parametrize("token", [None, "hf_bad"])
def test_pushing_without_a_token_is_refused(server, checkpoint, monkeypatch, token):
    """The error for a refused upload says how to log in."""
    if token:
        monkeypatch.setenv("HF_TOKEN", token)

    done = run("push", checkpoint, "ada/new")

    assert 1 == done.exit_code
    assert "HF_TOKEN" in done.stderr
    assert "ada/new" not in server.repositories


def test_nothing_is_pushed_offline(server, checkpoint, monkeypatch):
    """ZOO_OFFLINE disables uploads, too."""
    monkeypatch.setenv("ZOO_OFFLINE", "1")

    done = run("push", checkpoint, "ada/new")

    assert (1, []) == (done.exit_code, server.log)
    assert "--dry-run" in done.stderr


def test_a_dry_run_writes_the_files_and_asks_nobody(server, checkpoint, tmp_path):
    """A dry run writes the files without contacting a server."""
    done = run("push", checkpoint, "ada/new", "--dry-run", tmp_path / "look")

    assert 0 == done.exit_code
    assert (tmp_path / "look" / "README.md").read_text().startswith("---\nlibrary_name: transformers\n")
    assert zoo.content_hash(checkpoint) == zoo.content_hash(tmp_path / "look")
    assert [] == server.log


def test_a_name_without_owner_is_refused(checkpoint, tmp_path):
    """A repository name without an owner is refused before the conversion."""
    done = run("push", checkpoint, "tiny", "--dry-run", tmp_path / "look")

    assert (1, False) == (done.exit_code, (tmp_path / "look").exists())


@pytest.mark.peers
def test_transformers_loads_what_was_pushed(server, checkpoint, monkeypatch):
    """transformers loads a pushed model from the Hub with the code of its card."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert 0 == run("push", checkpoint, "ada/peers").exit_code

    model = transformers.AutoModelForCausalLM.from_pretrained(fetch("ada/peers"))

    assert zoo.load(checkpoint).config.n_parameters == model.num_parameters()
