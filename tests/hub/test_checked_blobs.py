"""Files of the Hub's cache are compared with their hashes before their first use, whoever downloaded them and when."""

from hashlib import sha256

import pytest

from zoo.errors import DownloadError
from zoo.hub import checked_blobs


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A snapshot of one file, as huggingface_hub leaves it."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    content = b"weights" * 99
    blob = tmp_path / "blobs" / sha256(content).hexdigest()
    directory = tmp_path / "snapshots" / "0123"
    for path in (blob.parent, directory):
        path.mkdir(parents=True)
    blob.write_bytes(content)
    (directory / "model.safetensors").symlink_to(blob)
    return directory


def test_a_file_that_no_check_was_made_of_is_refused_and_removed(snapshot):
    """As after a process that was killed between the last byte and its check."""
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(b"Weights" + blob.read_bytes()[7:])

    with pytest.raises(DownloadError, match="sends a file whose SHA-256 is"):
        checked_blobs.check_blobs(snapshot, "org/name")
    assert not blob.exists()


def test_a_file_is_hashed_once_and_again_when_it_changes(snapshot, monkeypatch):
    """The record has size, time and inode."""
    checked_blobs.check_blobs(snapshot, "org/name")
    with monkeypatch.context() as patch:
        patch.setattr(checked_blobs, "hash_file", None)
        checked_blobs.check_blobs(snapshot, "org/name")
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[::-1])
    with pytest.raises(DownloadError):
        checked_blobs.check_blobs(snapshot, "org/name")
