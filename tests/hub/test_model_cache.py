"""The model cache: its contents, damaged files, and several processes at once."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import faults as bad
import pytest
from bucket import zoo_command
from cases import counts

from zoo.errors import OutputError
from zoo.hub.fetch import get_model, get_url
from zoo.hub.model_cache import Cache, damage

CHILD = "import zoo; print(zoo.open_checkpoint('test-tiny')[1].config.width)"


def test_processes_that_want_the_same_model_download_it_once(bucket, tmp_path):
    """One process downloads, the others wait and say so, and all have the model in the end."""
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
    """Users share a read-only cache; the error for a missing model says how to use another cache."""
    path = get_model("test-tiny")
    before = sorted(Path(os.environ["ZOO_CACHE"]).rglob("*"))
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK))

    assert path == get_model("test-tiny")
    with pytest.raises(OutputError, match=r"cannot be written.*ZOO_CACHE"):
        get_url(f"{bucket.url}a/hparams.json")
    assert before == sorted(Path(os.environ["ZOO_CACHE"]).rglob("*"))


def test_a_file_in_place_of_the_cache_is_named(bucket, tmp_path, monkeypatch):
    """A file at the path of the cache is an OutputError."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))

    with pytest.raises(OutputError, match="file cannot be written"):
        get_model("test-tiny")


def test_cache_list_verify_path_rm(bucket, tmp_path):
    """The cache lists, verifies, locates and removes its models."""
    assert "is empty" in zoo_command("cache", "list").stdout
    path = get_model("test-tiny")

    listed = json.loads(zoo_command("cache", "list", "--json").stdout)
    assert ["test-tiny"] == [model["name"] for model in listed["models"]]
    assert "test-tiny" in zoo_command("cache", "list").stdout
    assert str(path) == zoo_command("cache", "path", "test-tiny").stdout.strip()
    assert os.environ["ZOO_CACHE"] == zoo_command("cache", "path").stdout.strip()
    assert (0, "test-tiny: intact\n") == (
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
    """An object that is shorter than recorded counts as missing and is created again."""
    path = get_model("test-tiny")
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)

    assert Cache().find("test-tiny") is None
    assert Cache().find("test-tiny") != get_model("test-tiny")


@pytest.mark.parametrize("text", ["{", "[]", '{"sha256": "../../x", "file": "y", "size": 1}', '{"name": 3}', "\xff"])
def test_a_damaged_record_is_as_if_it_were_not_there(bucket, text):
    """A record that names a file elsewhere is ignored."""
    get_model("test-tiny")
    record = Path(os.environ["ZOO_CACHE"]) / "records" / "test-tiny.json"
    record.write_text(text, encoding="latin-1")

    assert Cache().find("test-tiny") is None
    assert get_model("test-tiny").is_file()


@pytest.mark.long
def test_what_a_process_is_at_work_on_is_not_removed(bucket, tmp_path):
    """zoo cache rm --unfinished does not touch a running download; afterwards there is nothing to remove."""
    data = "model.ckpt.data-00000-of-00001"
    bucket.always = lambda handler: handler.path.endswith(data) and bool(time.sleep(1))
    with subprocess.Popen([sys.executable, "-c", CHILD], cwd=tmp_path, stdout=-1, stderr=-1, text=True) as child:
        while not any(name.endswith(data) for name, _ in bucket.log):
            time.sleep(0.01)
        done = zoo_command("cache", "rm", "--unfinished")
        assert (0, "48\n") == (done.exit_code, child.communicate()[0])

    assert Cache().find("test-tiny")
    assert [] == Cache().unfinished()


def test_an_object_that_lost_its_record_is_listed_and_removed(bucket):
    """An object without a record, as a killed process leaves it, is listed and removed."""
    path = get_model("test-tiny")
    (Path(os.environ["ZOO_CACHE"]) / "records" / "test-tiny.json").unlink()

    assert [path.parent] == Cache().unfinished()
    assert 0 == zoo_command("cache", "rm", "--unfinished").exit_code
    assert not path.exists()


def killed_at_random(bucket, tmp_path, times):
    """When processes that fill the cache are killed, all files in it are intact."""
    bucket.always = bad.pause(0.02)
    chance, killed = random.Random(9), 0
    for _ in range(times):
        with subprocess.Popen([sys.executable, "-c", STARTED], cwd=tmp_path, stdout=-1, stderr=-1) as child:
            child.stdout.readline()
            time.sleep(chance.random() * 0.5)
            child.kill()
        killed += child.returncode != 0
        for entry in Cache().entries():
            assert "" == damage(entry)
            Cache().remove(entry)
    bucket.always = None
    get_model("test-tiny")
    assert "" == damage(Cache().find("test-tiny"))
    zoo_command("cache", "rm", "--unfinished")
    assert [] == Cache().unfinished()
    counts["processes killed that fill the cache"] += killed
    return killed


STARTED = "import zoo.conversion.run, zoo.hub.resolve; print(flush=True); zoo.hub.resolve.find_checkpoint('test-tiny')"


def test_a_killed_process_leaves_a_cache_of_whole_files(bucket, tmp_path):
    """SIGKILL at five random moments of download, conversion and the last renames; the slow test has 200."""
    assert killed_at_random(bucket, tmp_path, 5) > 0


@pytest.mark.slow
def test_two_hundred_kills(bucket, tmp_path):
    """SIGKILL at 200 random moments."""
    assert killed_at_random(bucket, tmp_path, 200) > 100
