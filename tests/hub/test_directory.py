"""zoo download --to: directories for machines without a network, from every kind of source."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import faults as bad
import pytest
from bucket import zoo_command

import zoo
from zoo.errors import CorruptFile, DownloadError, MissingWeights, OptionError, OutputError
from zoo.hub.fetch import add_model, download, get_model
from zoo.hub.model_cache import Cache


def test_the_directory_says_what_it_holds(bucket, published, tmp_path):
    """SHA256SUMS can be read by sha256sum, and the directory has no other files than the published ones."""
    download("test-tiny", tmp_path / "stick")

    assert {*published[0], "SHA256SUMS"} == set(os.listdir(tmp_path / "stick"))
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path / "stick", capture_output=True)
    assert (0, len(published[0])) == (done.returncode, done.stdout.count(b": OK\n"))


def test_what_was_damaged_on_the_way_is_not_added(bucket, tmp_path):
    """A damaged vocabulary, which has no checksum of its own, is found by SHA256SUMS."""
    download("test-tiny", tmp_path / "stick")
    vocabulary = tmp_path / "stick" / "vocab.bpe"
    vocabulary.write_bytes(vocabulary.read_bytes().replace(b"0.2", b"0.3"))

    with pytest.raises(CorruptFile, match=r"vocab.bpe: is missing or does not match SHA256SUMS"):
        add_model("test-tiny", tmp_path / "stick")
    assert [] == Cache().entries()


def test_the_first_hashes_count_for_directories_too(bucket, tmp_path):
    """The hashes of a download into a directory are required of later downloads to other places."""
    download("test-tiny", tmp_path / "first")
    for place in ("a", "b"):
        bucket.files[f"{place}/hparams.json"] += b"\n"

    with pytest.raises(DownloadError, match=r"hparams\.json' cannot be downloaded"):
        download("test-tiny", tmp_path / "second")
    with pytest.raises(DownloadError, match=r"hparams\.json' cannot be downloaded"):
        get_model("test-tiny")


def test_files_of_somebody_else_are_not_taken_for_the_published(bucket, tmp_path):
    """Files of the user or of another model are not overwritten, and their hashes are not recorded."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "hparams.json").write_text("{}")
    with pytest.raises(DownloadError, match=r"hparams.json exists and differs"):
        download("test-tiny", tmp_path / "mine")

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "SHA256SUMS").write_text("# gpt2-medium openai\n")
    with pytest.raises(DownloadError, match="already has the files of gpt2-medium openai"):
        download("test-tiny", tmp_path / "other")
    assert {} == Cache().known_hashes("test-tiny")
    assert "{}" == (tmp_path / "mine" / "hparams.json").read_text()


def test_a_directory_is_completed(bucket, published, tmp_path):
    """Files that were complete when the connection broke are not downloaded again, also without a cache."""
    data = "model.ckpt.data-00000-of-00001"
    bucket.always = lambda handler: handler.path.endswith(data) and bad.status(403)(handler)
    with pytest.raises(DownloadError):
        download("test-tiny", tmp_path / "stick")
    bucket.always = None
    bucket.log.clear()

    download("test-tiny", tmp_path / "stick")

    missing = {name for name, _ in bucket.log}
    assert f"a/{data}" in missing
    assert len(missing) < len(published[0])


def test_a_cache_that_cannot_be_written_is_no_hindrance(bucket, tmp_path, monkeypatch):
    """A cache that cannot be written is not needed; the hashes are in the directory."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))

    download("test-tiny", tmp_path / "stick")

    assert (tmp_path / "stick" / "SHA256SUMS").is_file()


def test_a_url_is_brought_to_a_directory(bucket, published, tmp_path):
    """A URL can be downloaded into a directory."""
    zoo.save(published[1], tmp_path / "x.safetensors")
    bucket.files["some/model.safetensors"] = (tmp_path / "x.safetensors").read_bytes()

    done = zoo_command("download", f"{bucket.url}some/model.safetensors", "--to", tmp_path / "stick")

    assert 0 == done.exit_code, done.output
    assert zoo.content_hash(tmp_path / "x.safetensors") == zoo.content_hash(tmp_path / "stick" / "model.safetensors")


def test_a_url_is_downloaded_to_the_cache(bucket, published, tmp_path):
    """Without --to, a URL is downloaded into the cache."""
    zoo.save(published[1], tmp_path / "x.safetensors")
    bucket.files["some/model.safetensors"] = (tmp_path / "x.safetensors").read_bytes()
    url = f"{bucket.url}some/model.safetensors"

    assert 0 == zoo_command("download", url).exit_code
    assert str(Cache().find(url).path) == zoo_command("cache", "path", url).stdout.strip()


@pytest.mark.parametrize("name", ["test-tiny", "https://127.0.0.1:1/model.safetensors"])
def test_offline_is_offline(bucket, tmp_path, monkeypatch, name):
    """With ZOO_OFFLINE, no server is contacted and nothing is created."""
    monkeypatch.setenv("ZOO_OFFLINE", "1")

    with pytest.raises(MissingWeights, match="ZOO_OFFLINE is set"):
        download(name, tmp_path / "stick")
    assert (0, False) == (len(bucket.log), (tmp_path / "stick").exists())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://user:secret@host/m.safetensors", r"\.netrc"),
        ("https://[bad/m.safetensors", "not a valid address"),
        ("https://host/%0a", "end in a file name"),
    ],
)
def test_an_address_that_cannot_be_used_is_said(tmp_path, monkeypatch, url, said):
    """A URL with a login is refused, and neither stored nor repeated in the message."""
    monkeypatch.delenv("ZOO_OFFLINE")
    with pytest.raises(OptionError, match=said) as caught:
        zoo.load(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("arguments", [("test-tiny", "--from", "openai"), ("hf:a/b", "--to", "x", "--from", "openai")])
def test_a_format_is_chosen_for_published_models_only(arguments):
    """--from is refused for sources other than published models, where it would have no effect."""
    assert 2 == zoo_command("download", *arguments).exit_code


def test_a_disk_without_room_for_both_files_is_refused_before_the_first_byte(bucket, published, tmp_path, monkeypatch):
    """The free space must be enough for the downloaded and the converted file together."""
    sizes = [len(content) for content in published[0].values()]
    table = Path(os.environ["ZOO_SOURCES"])
    lines = table.read_text()
    for name, content in published[0].items():
        lines = lines.replace(f'"{name}" = {{  }}', f'"{name}" = {{ size = {len(content)} }}')
    table.write_text(lines)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=int(1.9 * sum(sizes))))

    with pytest.raises(OutputError, match="more are needed"):
        get_model("test-tiny")
    assert [] == bucket.log
    download("test-tiny", tmp_path / "stick")
