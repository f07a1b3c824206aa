"""Models by name and by URL are downloaded from a local server, converted once, and found afterwards."""

import os
from hashlib import sha256
from pathlib import Path

import faults as bad
import numpy as np
import pytest
from bucket import write_table, zoo_command

import zoo
from zoo.errors import DownloadError, FormatError, MissingWeights, OptionError, ZooError
from zoo.hub.fetch import add_model, get_model, get_url
from zoo.hub.model_cache import Cache
from zoo.hub.resolve import find_checkpoint


def test_a_name_is_downloaded_and_converted_once(bucket, published, tmp_path):
    """zoo.load by name gives the published weights; the second time no server is contacted."""
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
    """An alias finds the cached model of its canonical name."""
    zoo.register("tiny-of-downloads", zoo.get_config("test-tiny"), aliases=("tod",))
    Path(os.environ["ZOO_SOURCES"]).write_text(
        Path(os.environ["ZOO_SOURCES"]).read_text().replace("test-tiny", "tiny-of-downloads")
    )

    assert get_model("tod") == get_model("tiny-of-downloads")


def test_another_file_than_the_first_time_is_refused(bucket, published):
    """Without a hash in the table, the one of the first download is required, until the user accepts a different
    file.
    """
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
    """A server with wrong bytes is not used; its mirror is."""
    write_table(tmp_path / "sources.toml", bucket, published[0], pinned=True)
    bucket.always = lambda handler: handler.path.startswith("/a/") and bad.other_bytes(handler)

    assert get_model("test-tiny").is_file()


def test_damaged_files_do_not_get_into_the_cache(bucket, published):
    """Downloaded files go through all checks of their format, whatever their hash."""
    for place in ("a", "b"):
        name = f"{place}/model.ckpt.data-00000-of-00001"
        bucket.files[name] = bucket.files[name][:-5] + b"12345"

    with pytest.raises(ZooError, match="checksum"):
        get_model("test-tiny")
    assert [] == Cache().entries() == Cache().unfinished()

    # Its hashes were not recorded: when the server works again, the next call succeeds.
    for place in ("a", "b"):
        bucket.files[f"{place}/model.ckpt.data-00000-of-00001"] = published[0]["model.ckpt.data-00000-of-00001"]
    assert get_model("test-tiny").is_file()


def test_offline_says_what_is_missing_and_how_to_bring_it(bucket, monkeypatch, tmp_path):
    """The way out that the error names works: download on another machine and add the directory."""
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
    """The cache accepts only the model of the given name."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    zoo.save(zoo.create(zoo.get_config("test-tiny").replace(n_layers=3)), tmp_path / "other.safetensors")

    done = zoo_command("cache", "add", "test-tiny", tmp_path / "other.safetensors")

    assert 1 == done.exit_code
    assert [] == Cache().entries()


def test_convert_downloads_what_is_not_named(bucket, published, tmp_path):
    """`zoo convert --from openai --size NAME --out FILE` needs no source; the downloaded files are deleted or kept,
    as requested.
    """
    done = zoo_command("convert", "--from", "openai", "--size", "test-tiny", "--out", tmp_path / "a.safetensors")
    assert (0, []) == (done.exit_code, Cache().unfinished())

    done = zoo_command("convert", "--size", "test-tiny", "--to", "openai", "--out", tmp_path / "b", "--keep-source")
    assert 0 == done.exit_code
    assert zoo.content_hash(tmp_path / "a.safetensors") == zoo.content_hash(tmp_path / "b")
    assert ["test-tiny"] == [path.name for path in Cache().unfinished()]
    asked = len(bucket.log)
    assert 0 == zoo_command("convert", "--size", "test-tiny", "--out", tmp_path / "c.pth", "--keep-source").exit_code
    assert asked == len(bucket.log)


def test_what_a_plan_downloaded_is_kept(bucket, tmp_path):
    """--dry-run shows what the conversion will do, and the conversion does not download again."""
    arguments = ("convert", "--size", "test-tiny", "--out", tmp_path / "a.safetensors")
    done = zoo_command(*arguments, "--dry-run")
    assert (0, []) == (done.exit_code, list(tmp_path.glob("*.safetensors")))
    asked = len(bucket.log)

    assert 0 == zoo_command(*arguments).exit_code
    assert asked == len(bucket.log) > 0


def test_convert_refuses_an_output_before_it_downloads(bucket, tmp_path):
    """An existing output is reported before the download."""
    (tmp_path / "a.safetensors").write_bytes(b"mine")

    done = zoo_command("convert", "--from", "openai", "--size", "test-tiny", "--out", tmp_path / "a.safetensors")

    assert (1, b"mine", []) == (done.exit_code, (tmp_path / "a.safetensors").read_bytes(), bucket.log)


def test_a_url_is_downloaded_once(bucket, published, tmp_path):
    """The address of a file works like a file, in the library and on the command line."""
    zoo.save(published[1], tmp_path / "x.safetensors")
    bucket.files["some/where/model.safetensors"] = (tmp_path / "x.safetensors").read_bytes()
    url = f"{bucket.url}some/where/model.safetensors"

    first = zoo_command("generate", "--model", url, "-n", "4", "--seed", "1", "Every effort")
    second = zoo_command("generate", "--model", tmp_path / "x.safetensors", "-n", "4", "--seed", "1", "Every effort")

    assert (0, second.stdout) == (first.exit_code, first.stdout)
    assert "model.safetensors" == find_checkpoint(Path(url)).name
    assert 1 == sum(asked.startswith("bytes=0-") for _, asked in bucket.log)


def test_the_page_of_a_captive_portal_is_not_kept(bucket, published, tmp_path):
    """A file from a URL is cached only if it is a checkpoint."""
    zoo.save(published[1], tmp_path / "x.safetensors")
    url = f"{bucket.url}model.safetensors"
    bucket.files["model.safetensors"] = b"<html>Log in to the wireless network of this hotel</html>"
    with pytest.raises(FormatError, match="no format that zoo knows"):
        get_url(url)
    bucket.files["model.safetensors"] = (tmp_path / "x.safetensors").read_bytes()

    assert get_url(url).read_bytes() == (tmp_path / "x.safetensors").read_bytes()


@pytest.mark.parametrize(("end", "said"), [("", "does not end in a file name"), ("none.bin", "HTTP 404")])
def test_a_url_that_is_no_file_is_refused(bucket, end, said):
    """A URL that is not a file gives one error."""
    with pytest.raises((OptionError, DownloadError), match=said):
        get_url(f"{bucket.url}{end}")
