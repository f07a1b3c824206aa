"""The source table and the user's own table."""

import pytest

import zoo
from zoo.errors import ConfigError, MissingWeights
from zoo.hub.source_table import PACKAGED, find_source, read_table


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "malformed"),
        ("[no-such-model.openai]\nhub='a/b'", "no-such-model"),
        ("[gpt2-small.openai]\nurls=[]\nfiles={}", "needs urls"),
        ("[gpt2-small.openai]\nurls=['https://x/']\n[gpt2-small.openai.files]\n'../x' = {}", "plain file name"),
        ("[gpt2-small.openai]\nurls=['https://x/']\n[gpt2-small.openai.files]\n'x' = {sha256='12'}", "64 hex"),
        ("[gpt2-small.openai]\nurls=['https://x/']\n[gpt2-small.openai.files]\n'x' = {size=-1}", "a number of bytes"),
        ("[gpt2-small.openai]\nmirror='https://x/'", "unknown key"),
    ],
)
def test_a_malformed_table_is_named(tmp_path, monkeypatch, text, said):
    """The error for a malformed table of the user says what is wrong with it."""
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
    """The error for a registered model without a source says so."""
    with pytest.raises(MissingWeights, match="no address is known"):
        find_source("test-tiny")
    with pytest.raises(MissingWeights, match="in the format gguf"):
        find_source("gpt2-small", "gguf")
