import pytest

import zoo.models.registry
from zoo.errors import ConfigError, UnknownName
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import get_config, is_registered, list_aliases, list_models, register


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Give each test copies, so that what it registers is gone after it."""
    monkeypatch.setattr(zoo.models.registry, "_CONFIGS", dict(zoo.models.registry._CONFIGS))
    monkeypatch.setattr(zoo.models.registry, "_ALIASES", dict(zoo.models.registry._ALIASES))


@pytest.mark.parametrize(
    ("names", "n_parameters"),
    [
        (("gpt2-small", "gpt2", "124M", "117M"), 124_439_808),
        (("gpt2-medium", "355M", "345M"), 354_823_168),
        (("gpt2-large", "774M"), 774_030_080),
        (("gpt2-xl", "1558M"), 1_557_611_200),
        (("distilgpt2",), 81_912_576),
    ],
)
def test_the_published_models_have_their_published_sizes(names, n_parameters):
    """Every name and alias of a published model gives a config with the published parameter count."""
    assert {n_parameters} == {get_config(name).n_parameters for name in names}
    assert {64} == {get_config(name).head_size for name in names}


def test_a_pattern_lists_by_name_or_alias_in_order_of_size():
    """list_models takes shell patterns and never sorts 1558M before 355M."""
    assert list_models("gpt2*") == ["gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    assert list_models("35?M") == ["gpt2-medium"]
    assert list_models("llama*") == []
    assert "test-tiny" in list_models()


def test_a_wrong_name_is_answered_with_the_nearest():
    """UnknownName carries the name and its neighbours, and says them."""
    with pytest.raises(UnknownName, match="unknown model 'gpt2-smal': did you mean gpt2-small") as caught:
        get_config("gpt2-smal")

    assert (caught.value.name, caught.value.close[0]) == ("gpt2-smal", "gpt2-small")


def test_ones_own_model_is_as_good_as_a_built_in_one():
    """A registered config is found under its name and its aliases."""
    mine = GPTConfig(vocab_size=97, width=30, n_heads=5)
    register("mine", mine, aliases=("my-model",))

    assert (mine, mine) == (get_config("mine"), get_config("my-model"))
    assert list_models("my*") == ["mine"]
    assert list_aliases("mine") == ["my-model"]


def test_a_taken_name_is_an_error_and_changes_nothing():
    """Registering a name twice, or an alias that is taken, is refused as a whole."""
    with pytest.raises(ConfigError, match="already registered, for gpt2-small"):
        register("new", GPTConfig(), aliases=("124M",))

    assert not is_registered("new")


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "hf:x", "x.safetensors"])
def test_a_name_that_looks_like_a_path_is_refused(name):
    """Names and paths can be told apart, because no name looks like a path."""
    with pytest.raises(ConfigError, match="looks like a path"):
        register(name, GPTConfig())
