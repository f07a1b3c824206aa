import dataclasses
import json

import pytest
from hypothesis import given
from strategies import configs

from zoo.errors import ConfigError
from zoo.models.gpt2.config import MAX_LAYERS, GPTConfig


@given(configs())
def test_a_config_survives_json(config):
    """A config written as JSON and read back is equal to itself."""
    assert config == GPTConfig.from_dict(json.loads(json.dumps(config.to_dict())))


@given(configs())
def test_the_parameter_count_is_the_sum_of_the_shapes(config):
    """n_parameters agrees with a count written by hand from the architecture."""
    c, i = config.width, config.inner_width
    matrices = 3 * c * c + c * c + 2 * c * i
    biases = (3 * c if config.qkv_bias else 0) + ((c + i + c + 2 * c) if config.bias else 0)
    block = matrices + biases + 2 * c
    rest = config.vocab_rows * c * (1 if config.tied else 2) + config.context_length * c
    final = c + (c if config.bias else 0)

    assert config.n_layers * block + rest + final == config.n_parameters


def test_zero_means_the_usual_derived_size():
    """By default, the inner width is four times the width, and there are as many rows as tokens."""
    config = GPTConfig(vocab_size=97, width=30, n_heads=5)

    assert (config.inner_width, config.vocab_rows, config.head_size) == (120, 97, 6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_heads": 7}, "n_heads (7) must divide width (768)"),
        ({"vocab_rows": 50000}, "vocab_rows (50000) must be at least vocab_size (50257)"),
        ({"dropout": 1.0}, "dropout must be in [0, 1)"),
        ({"dropout": float("nan")}, "dropout must be in [0, 1)"),
        ({"norm_eps": 0.0}, "norm_eps must be a positive number"),
        ({"norm_eps": float("inf")}, "norm_eps must be a positive number"),
        ({"activation": "relu"}, "activation must be one of gelu_tanh, gelu"),
        ({"n_layers": 0}, "n_layers must be at least 1"),
        ({"n_layers": MAX_LAYERS + 1}, "n_layers must be at most 1024"),
        ({"width": 768.5}, "width must be of type int"),
        ({"width": True}, "width must be of type int"),
        ({"tied": 1}, "tied must be of type bool"),
        ({"activation": None}, "activation must be of type str"),
    ],
)
def test_an_impossible_value_is_named(fields, words):
    """The error for an invalid config names the field and its value."""
    with pytest.raises(ConfigError) as caught:
        GPTConfig(**fields)

    assert words in str(caught.value)


def test_an_unknown_field_offers_the_nearest():
    """A misspelt field is refused with the right spelling."""
    with pytest.raises(ConfigError, match=r"unknown config field 'n_head': did you mean n_heads\?"):
        GPTConfig.from_dict({"n_head": 12})


def test_replace_changes_one_field_and_checks_it():
    """replace() gives a new config, and is as strict as the constructor."""
    config = GPTConfig(vocab_size=97)

    assert config.replace(vocab_size=89).vocab_size == 89
    assert config.vocab_size == 97
    with pytest.raises(ConfigError):
        config.replace(width=0)


def test_a_config_cannot_be_changed():
    """Configs are frozen, so that they can be shared."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().width = 5
