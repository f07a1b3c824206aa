"""Downloads from a server on this machine: a small model as OpenAI publishes them, a table that names it, a cache."""

import pytest
from bucket import write_table
from cases import counts
from weights_server import WeightsServer

import zoo
from zoo.hub.http import client as http
from zoo.hub.http import resumable_download


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
    monkeypatch.setattr(resumable_download, "PAUSE", 0.001)
    monkeypatch.delenv("ZOO_OFFLINE")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_SOURCES", str(tmp_path / "sources.toml"))
    with WeightsServer(
        {f"{place}/{name}": content for place in ("a", "b") for name, content in files.items()}
    ) as server:
        write_table(tmp_path / "sources.toml", server, files)
        yield server


@pytest.fixture(autouse=True)
def _count():
    yield
    counts["cases of downloads"] += 1
