"""Models by name and by URL: downloaded from a server on this machine, converted once, found ever after."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import weights_server as bad
from click.testing import CliRunner
from weights_server import WeightsServer

import zoo
from zoo.cli.main import main
from zoo.download import http, transfer
from zoo.download.cache import Cache
from zoo.download.models import add_model, get_model, get_url
from zoo.download.sources import PACKAGED, find_source, read_table
from zoo.errors import ConfigError, DownloadError, MissingWeights, OptionError, OutputError, ZooError
from zoo.sources import find_checkpoint


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """OpenAI's files of a small model that is registered for these tests, and the model."""
    directory = tmp_path_factory.mktemp("published")
    model = zoo.create("test-tiny", seed=3)
    zoo.save(model, directory / "tiny", to="openai")
    return {path.name: path.read_bytes() for path in (directory / "tiny").iterdir()}, model


@pytest.fixture
def bucket(published, tmp_path, monkeypatch):
    """A server with two places for the model, a table that names them, an empty cache, and the network allowed."""
    files, _ = published
    monkeypatch.setattr(http, "TIMEOUT", 0.4)
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    monkeypatch.delenv("ZOO_OFFLINE")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_SOURCES", str(tmp_path / "sources.toml"))
    with WeightsServer(
        {f"{place}/{name}": content for place in ("a", "b") for name, content in files.items()}
    ) as server:
        write_table(tmp_path / "sources.toml", server, files)
        yield server


def write_table(path, server, files, *, pinned=False):
    lines = ["[test-tiny.openai]", f'urls = ["{server.url}a/", "{server.url}b"]', "[test-tiny.openai.files]"]
    for name, content in files.items():
        known = f'size = {len(content)}, sha256 = "{sha256(content).hexdigest()}"' if pinned else ""
        lines.append(f'"{name}" = {{ {known} }}')
    path.write_text("\n".join(lines))


def zoo_command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_name_is_downloaded_and_converted_once(bucket, published, tmp_path):
    """zoo.load by name gives the published weights; the second time no server is asked."""
    model = zoo.load("test-tiny")
    asked = len(bucket.log)
    again = find_checkpoint("test-tiny")

    for name, value in published[1].state_dict().items():
        assert np.array_equal(value.numpy(), model.state_dict()[name].numpy()), name
    assert asked == len(bucket.log) > 0
    assert sha256(again.read_bytes()).hexdigest() == again.parent.name
    assert again.is_relative_to(tmp_path / "cache")
    assert [] == Cache().unfinished()
    assert not os.access(again, os.W_OK) or os.geteuid() == 0


def test_an_alias_is_the_same_model(bucket):
    """What is in the cache is there under the canonical name."""
    zoo.register("tiny-of-downloads", zoo.get_config("test-tiny"), aliases=("tod",))
    Path(os.environ["ZOO_SOURCES"]).write_text(
        Path(os.environ["ZOO_SOURCES"]).read_text().replace("test-tiny", "tiny-of-downloads")
    )

    assert get_model("tod") == get_model("tiny-of-downloads")


def test_another_file_than_the_first_time_is_refused(bucket, published):
    """Where the table has no hash, the one of the first download counts; the user can say that he wants the new one."""
    first = get_model("test-tiny")
    assert 0 == zoo_command("cache", "rm", "test-tiny").exit_code
    assert not first.exists()
    for place in ("a", "b"):
        content = bytearray(published[0]["hparams.json"])
        bucket.files[f"{place}/hparams.json"] = bytes(content) + b"\n"

    with pytest.raises(DownloadError, match=r"hparams\.json' cannot be downloaded.*a/hparams.*b/hparams"):
        get_model("test-tiny")
    assert Cache().find("test-tiny") is None

    assert 0 == zoo_command("cache", "rm", "--forget", "test-tiny").exit_code
    zoo_command("cache", "rm", "--unfinished")
    assert get_model("test-tiny").is_file()


def test_a_pinned_hash_is_checked(bucket, published, tmp_path):
    """A bucket with other bytes is not used; the mirror is."""
    write_table(tmp_path / "sources.toml", bucket, published[0], pinned=True)
    bucket.always = lambda handler: handler.path.startswith("/a/") and bad.other_bytes(handler)

    assert get_model("test-tiny").is_file()


def test_damaged_files_do_not_get_into_the_cache(bucket):
    """What a server sends is converted with all checks of the format, whatever its hash."""
    for place in ("a", "b"):
        name = f"{place}/model.ckpt.data-00000-of-00001"
        bucket.files[name] = bucket.files[name][:-5] + b"12345"

    with pytest.raises(ZooError, match="checksum"):
        get_model("test-tiny")
    assert [] == Cache().entries()


def test_offline_says_what_is_missing_and_how_to_bring_it(bucket, monkeypatch, tmp_path):
    """The way it names works: download to a directory elsewhere, and add that here."""
    directory = tmp_path / "stick"
    assert 0 == zoo_command("download", "test-tiny", "--to", directory).exit_code
    bucket.log.clear()
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(MissingWeights, match=r"zoo download test-tiny --to DIR.*zoo cache add test-tiny DIR"):
        zoo.load("test-tiny")

    assert zoo.content_hash(directory) == zoo.content_hash(add_model("test-tiny", directory))
    assert zoo.load("test-tiny").config == zoo.load(directory).config
    assert [] == bucket.log


def test_a_wrong_checkpoint_is_not_added(tmp_path, monkeypatch):
    """The cache has what the name says."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    zoo.save(zoo.create(zoo.get_config("test-tiny").replace(n_layers=3)), tmp_path / "other.safetensors")

    done = zoo_command("cache", "add", "test-tiny", tmp_path / "other.safetensors")

    assert 1 == done.exit_code
    assert [] == Cache().entries()


def test_convert_downloads_what_is_not_named(bucket, published, tmp_path):
    """`zoo convert --from openai --size NAME --out FILE` needs no source; what was downloaded goes, or stays."""
    done = zoo_command("convert", "--from", "openai", "--size", "test-tiny", "--out", tmp_path / "a.safetensors")
    assert (0, []) == (done.exit_code, Cache().unfinished())

    done = zoo_command("convert", "--size", "test-tiny", "--to", "openai", "--out", tmp_path / "b", "--keep-source")
    assert 0 == done.exit_code
    assert zoo.content_hash(tmp_path / "a.safetensors") == zoo.content_hash(tmp_path / "b")
    assert ["test-tiny.openai"] == [path.name for path in Cache().unfinished()]
    asked = len(bucket.log)
    assert 0 == zoo_command("convert", "--size", "test-tiny", "--out", tmp_path / "c.pth", "--keep-source").exit_code
    assert asked == len(bucket.log)


def test_convert_refuses_an_output_before_it_downloads(bucket, tmp_path):
    """Nobody waits for gigabytes to be told that the output exists."""
    (tmp_path / "a.safetensors").write_bytes(b"mine")

    done = zoo_command("convert", "--from", "openai", "--size", "test-tiny", "--out", tmp_path / "a.safetensors")

    assert (1, b"mine", []) == (done.exit_code, (tmp_path / "a.safetensors").read_bytes(), bucket.log)


def test_a_url_is_downloaded_once(bucket, published, tmp_path):
    """The address of a file stands for the file, in the library and on the command line."""
    zoo.save(published[1], tmp_path / "x.safetensors")
    bucket.files["some/where/model.safetensors"] = (tmp_path / "x.safetensors").read_bytes()
    url = f"{bucket.url}some/where/model.safetensors"

    first = zoo_command("generate", "--model", url, "-n", "4", "--seed", "1", "Every effort")
    second = zoo_command("generate", "--model", tmp_path / "x.safetensors", "-n", "4", "--seed", "1", "Every effort")

    assert (0, second.stdout) == (first.exit_code, first.stdout)
    assert "model.safetensors" == find_checkpoint(Path(url)).name
    assert 1 == sum(asked.startswith("bytes=0-") for _, asked in bucket.log)


@pytest.mark.parametrize(("end", "said"), [("", "does not end in the name"), ("none.bin", "HTTP 404")])
def test_a_url_that_is_no_file_is_refused(bucket, end, said):
    """In one sentence."""
    with pytest.raises((OptionError, DownloadError), match=said):
        get_url(f"{bucket.url}{end}")


CHILD = "import zoo; print(zoo.open_checkpoint('test-tiny')[1].config.width)"


def test_processes_that_want_the_same_model_download_it_once(bucket, tmp_path):
    """One works, the others wait and say so, and all have it in the end."""
    bucket.always = bad.pause(0.05)
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD], cwd=tmp_path, stdout=-1, stderr=-1, text=True) for _ in range(4)
    ]
    outputs = [child.communicate() for child in children]

    assert ["48\n"] * 4 == [out for out, _ in outputs]
    data = [name for name, asked in bucket.log if name == "a/model.ckpt.data-00000-of-00001" and "=0-" in asked]
    assert 1 == len(data)
    assert any("waiting for another process that downloads test-tiny" in err for _, err in outputs)


def test_a_cache_that_cannot_be_written_can_still_be_read(bucket, tmp_path, monkeypatch):
    """Users share a cache read-only; what is missing there is said with the way out."""
    path = get_model("test-tiny")
    before = sorted(Path(os.environ["ZOO_CACHE"]).rglob("*"))
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK))

    assert path == get_model("test-tiny")
    with pytest.raises(OutputError, match=r"cannot be written.*ZOO_CACHE"):
        get_url(f"{bucket.url}a/hparams.json")
    assert before == sorted(Path(os.environ["ZOO_CACHE"]).rglob("*"))


def test_a_file_in_place_of_the_cache_is_named(bucket, tmp_path, monkeypatch):
    """As any other problem of an output."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))

    with pytest.raises(OutputError, match="file cannot be written"):
        get_model("test-tiny")


def test_cache_list_verify_path_rm(bucket, tmp_path):
    """What is there, whether it is whole, where it is, and away with it."""
    assert "is empty" in zoo_command("cache", "list").stdout
    path = get_model("test-tiny")

    listed = json.loads(zoo_command("cache", "list", "--json").stdout)
    assert ["test-tiny"] == [model["name"] for model in listed["models"]]
    assert "test-tiny" in zoo_command("cache", "list").stdout
    assert str(path) == zoo_command("cache", "path", "test-tiny").stdout.strip()
    assert os.environ["ZOO_CACHE"] == zoo_command("cache", "path").stdout.strip()
    assert (0, "test-tiny: whole\n") == (
        zoo_command("cache", "verify").exit_code,
        zoo_command("cache", "verify").stdout,
    )

    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    done = zoo_command("cache", "verify", "--json")
    assert 1 == done.exit_code
    assert "SHA-256" in json.loads(done.stdout)["test-tiny"]

    assert 2 == zoo_command("cache", "rm").exit_code
    assert 0 == zoo_command("cache", "rm", "test-tiny").exit_code
    assert 1 == zoo_command("cache", "path", "test-tiny").exit_code
    assert 0 == zoo_command("cache", "rm", "--all").exit_code


def test_a_truncated_object_is_not_used(bucket):
    """A file that is not as long as recorded is as if it were not there: it is made again."""
    path = get_model("test-tiny")
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)

    assert Cache().find("test-tiny") is None
    assert Cache().find("test-tiny") != get_model("test-tiny")


@pytest.mark.parametrize("text", ["{", "[]", '{"sha256": "../../x", "file": "y", "size": 1}', '{"name": 3}', "\xff"])
def test_a_damaged_record_is_as_if_it_were_not_there(bucket, text):
    """A name in it that leads elsewhere is not followed."""
    get_model("test-tiny")
    record = Path(os.environ["ZOO_CACHE"]) / "records" / "test-tiny.json"
    record.write_text(text, encoding="latin-1")

    assert Cache().find("test-tiny") is None
    assert get_model("test-tiny").is_file()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "malformed"),
        ("[no-such-model.openai]\nhub='a/b'", "no-such-model"),
        ("[gpt2-small.openai]\nurls=[]\nfiles={}", "needs urls"),
        ("[gpt2-small.openai]\nurls=['https://x/']\n[gpt2-small.openai.files]\n'../x' = {}", "plain file name"),
        ("[gpt2-small.openai]\nurls=['https://x/']\n[gpt2-small.openai.files]\n'x' = {sha256='12'}", "64 hex"),
        ("[gpt2-small.openai]\nurls=['https://x/']\n[gpt2-small.openai.files]\n'x' = {size=-1}", "no number of bytes"),
        ("[gpt2-small.openai]\nmirror='https://x/'", "unknown key"),
    ],
)
def test_a_malformed_table_is_named(tmp_path, monkeypatch, text, said):
    """The user wrote it, so the message says what is wrong with it."""
    monkeypatch.setenv("ZOO_SOURCES", str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text(text)

    with pytest.raises(ConfigError, match=said):
        read_table()


def test_the_packaged_table_has_the_published_sizes():
    """Every size has OpenAI's bucket and its mirror, and the lengths of the data files follow from the configs."""
    for name in ("gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        source = find_source(name)
        data = next(file for file in source.files if "data" in file.name)
        assert "openai" == source.format
        assert 2 == len(data.urls)
        assert 4 * zoo.get_config(name).n_parameters == data.size
        assert find_source(name, "huggingface").hub.startswith("openai-community/gpt2")
    assert all(file.sha256 for file in find_source("124M").files)
    assert PACKAGED.is_file()


def test_a_model_without_a_source_says_so():
    """A registered config is not always published."""
    with pytest.raises(MissingWeights, match="no address is known"):
        find_source("test-tiny")
    with pytest.raises(MissingWeights, match="as gguf"):
        find_source("gpt2-small", "gguf")
