"""A token in the query of an address stays out of everything that others can read."""

import os
import stat

import pytest

import zoo
from zoo.errors import DownloadError
from zoo.hub.fetch import download
from zoo.hub.http.client import RefusedError, _redirected
from zoo.hub.http.sha256 import hash_file
from zoo.hub.model_cache import Cache
from zoo.hub.resolve import find_checkpoint

TOKEN = "sig=s3cret"


@pytest.fixture
def address(bucket, tmp_path):
    """The address, with a token, of a zoo file."""
    zoo.save(zoo.create("test-tiny", seed=3), tmp_path / "tiny.safetensors")
    bucket.files[f"tiny.safetensors?{TOKEN}"] = (tmp_path / "tiny.safetensors").read_bytes()
    return f"{bucket.url}tiny.safetensors?{TOKEN}"


def traces(directory):
    """Files with the token in their name or content."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if "s3cret" in path.name or b"s3cret" in path.read_bytes()]


def test_the_cache_does_not_keep_it(address, tmp_path):
    """Neither names nor contents of the cache have it; the file is found by the same address again, and can go."""
    path = find_checkpoint(address)

    assert find_checkpoint(address) == path
    assert [] == traces(tmp_path / "cache")
    (entry,) = Cache().entries()
    assert entry.name == address.partition("?")[0]
    Cache().remove(entry)
    assert [] == Cache().entries()


def test_a_download_does_not_keep_it(address, tmp_path):
    """SHA256SUMS names the address without it."""
    download(address, tmp_path / "here")

    assert (tmp_path / "here" / "tiny.safetensors").is_file()
    assert [] == traces(tmp_path / "here")


def test_errors_do_not_show_it(bucket):
    """A file that is not there is named without the query."""
    with pytest.raises(DownloadError) as caught:
        find_checkpoint(f"{bucket.url}none.safetensors?{TOKEN}")
    assert "s3cret" not in str(caught.value)
    assert "none.safetensors" in str(caught.value)


def test_https_does_not_redirect_to_http_even_on_this_machine():
    """What a server far away says must not reach a service of this machine."""
    for target in ("http://localhost:8080/x", "http://127.0.0.1/x", "http://far.example/x"):
        with pytest.raises(RefusedError, match="not https"):
            _redirected("https://far.example/x", target)
    assert _redirected("http://localhost/x", "http://127.0.0.1/y") == "http://127.0.0.1/y"


def test_a_planted_link_is_not_followed(address, tmp_path):
    """A link in the place of the partial file is removed; what it led to stays as it is."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / ".tiny.safetensors.part").symlink_to(victim)
    (tmp_path / "here" / ".tiny.safetensors.part.json").symlink_to(victim)
    download(address, tmp_path / "here")

    assert victim.read_bytes() == b"mine"
    assert not (tmp_path / "here" / "tiny.safetensors").is_symlink()


def test_a_cached_file_that_lost_its_end_is_downloaded_again(address, tmp_path):
    """After a power failure a file may have its size and zeros: it is not found, and comes anew."""
    path = find_checkpoint(address)
    sha256, size = hash_file(path), path.stat().st_size
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(size - 1000)
        file.write(bytes(1000))
    assert Cache().find(address) is None

    assert hash_file(find_checkpoint(address)) == sha256


def test_the_umask_counts_for_cached_files(address, tmp_path):
    """Read-only, and not readable by others if the user says so."""
    before = os.umask(0o077)
    try:
        assert stat.S_IMODE(find_checkpoint(address).stat().st_mode) == 0o400
    finally:
        os.umask(before)


def test_a_cache_shared_by_a_group(address, tmp_path, monkeypatch):
    """With setgid and the umask 002, members of the group can add, replace and remove; nobody else can write."""
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o2775)
    monkeypatch.setenv("ZOO_CACHE", str(root))
    before = os.umask(0o002)
    try:
        path = find_checkpoint(address)
    finally:
        os.umask(before)
    modes = {each: stat.S_IMODE(each.stat().st_mode) for each in root.rglob("*")}

    assert modes[path] == 0o444
    assert {mode for each, mode in modes.items() if each.is_dir()} == {0o2775}
    assert {mode & 0o664 for each, mode in modes.items() if each.suffix == ".json"} == {0o664}
    assert not any(mode & 0o002 for mode in modes.values())
