"""Hypothesis strategies: configs of small, crooked models."""

from hypothesis import strategies as st

from zoo.models.gpt2.config import GPTConfig


@st.composite
def configs(draw, **fixed):
    """A config whose sizes are small and, but for chance, all different."""
    n_heads, head_size = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    vocab_size = draw(st.integers(2, 40))
    fields = {
        "vocab_size": vocab_size,
        "vocab_rows": vocab_size + draw(st.integers(0, 5)),
        "context_length": draw(st.integers(1, 19)),
        "width": n_heads * head_size,
        "n_heads": n_heads,
        "n_layers": draw(st.integers(1, 3)),
        "inner_width": draw(st.integers(1, 50)),
        "dropout": draw(st.sampled_from([0.0, 0.1, 0.25])),
        "qkv_bias": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "tied": draw(st.booleans()),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
        "activation": draw(st.sampled_from(["gelu_tanh", "gelu"])),
    }
    return GPTConfig(**{**fields, **fixed})


@st.composite
def held_configs(draw, fmt):
    """A config that a format can hold: what the format implies is set to that."""
    config = draw(configs()).replace(**fmt.config_map.implied)
    if fmt.name == "nanogpt":  # which has one switch for all biases
        config = config.replace(qkv_bias=config.bias)
    assert fmt.cannot_hold(config) == []
    return config
