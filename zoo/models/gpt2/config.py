"""The architecture of a GPT-2: GPTConfig, and the names and shapes of its parameters.

Letters for shapes, here and everywhere in zoo: B batch, T tokens (context length), C width, H heads, D head size, V
vocabulary rows, I inner width of the MLP, L layers.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zoo.errors import ConfigError

Activation = Literal["gelu_tanh", "gelu"]
ACTIVATIONS: tuple[Activation, ...] = ("gelu_tanh", "gelu")
ACTIVATION_DIFFERENCE = (
    "The two GELUs differ by at most 0.0005; the logits of the model `stories` differ by up to 0.014 of 16.7, "
    "and its greedy tokens are the same"
)
"""What it means to run a model with the other activation (measured on 56 tokens of plain English)."""

MAX_LAYERS = 1024
"""Far above any GPT-2. It keeps a corrupt config from naming more tensors than fit into memory."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The architecture of a GPT-2 model. The defaults are those of gpt2-small.

    Attributes:
        vocab_size: Number of tokens. Ids from vocab_size on are never sampled.
        vocab_rows: Rows of the embedding, at least vocab_size (some checkpoints are padded to a multiple of 64); 0
            means vocab_size.
        context_length: Longest sequence of tokens, T.
        width: Width of the residual stream, C.
        n_heads: Number of attention heads, H; divides width.
        n_layers: Number of transformer blocks, L.
        inner_width: Inner width of the MLP, I; 0 means 4 * width.
        dropout: Dropout probability during training, for embeddings, attention and residual branches.
        qkv_bias: Whether the query, key and value projections have a bias.
        bias: Whether all other linear layers and the layer norms have a bias.
        tied: Whether the output head shares the token embedding.
        norm_eps: Epsilon of the layer norms.
        activation: "gelu_tanh" (GPT-2's) or "gelu" (exact).

    Raises:
        ConfigError: A field is invalid, or two fields contradict each other.
    """

    vocab_size: int = 50257
    vocab_rows: int = 0
    context_length: int = 1024
    width: int = 768
    n_heads: int = 12
    n_layers: int = 12
    inner_width: int = 0
    dropout: float = 0.1
    qkv_bias: bool = True
    bias: bool = True
    tied: bool = True
    norm_eps: float = 1e-5
    activation: Activation = "gelu_tanh"

    def __post_init__(self) -> None:
        if self.vocab_rows == 0:
            object.__setattr__(self, "vocab_rows", self.vocab_size)
        if self.inner_width == 0 and type(self.width) is int:
            object.__setattr__(self, "inner_width", 4 * self.width)
        self._check_types()
        self._check_values()

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if kind is float and type(value) is int and abs(value) < 1 << 53:
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not kind:
                raise ConfigError(f"{field.name} must be of type {kind.__name__}, not {value!r}")

    def _check_values(self) -> None:
        for name in ("vocab_size", "context_length", "width", "n_heads", "n_layers", "inner_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        rules = (
            (self.n_layers <= MAX_LAYERS, f"n_layers must be at most {MAX_LAYERS}, not {self.n_layers}"),
            (self.width % self.n_heads == 0, f"n_heads ({self.n_heads}) must divide width ({self.width})"),
            (
                self.vocab_rows >= self.vocab_size,
                f"vocab_rows ({self.vocab_rows}) must be at least vocab_size ({self.vocab_size})",
            ),
            (0 <= self.dropout < 1, f"dropout must be in [0, 1), not {self.dropout}"),
            (
                math.isfinite(self.norm_eps) and self.norm_eps > 0,
                f"norm_eps must be a positive number, not {self.norm_eps}",
            ),
            (
                self.activation in ACTIVATIONS,
                f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}",
            ),
        )
        for holds, message in rules:
            if not holds:
                raise ConfigError(message)

    @property
    def head_size(self) -> int:
        """The channels per attention head, D."""
        return self.width // self.n_heads

    @property
    def n_parameters(self) -> int:
        """The number of trained values; a tied head counts once."""
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter, in the order in which zoo stores them.

        Linear weights are (out, in), as in torch. qkv stacks query, key and value along its first axis.
        """
        vocab, context, width, inner = self.vocab_rows, self.context_length, self.width, self.inner_width
        shapes: dict[str, tuple[int, ...]] = {}

        def add(name: str, weight: tuple[int, ...], bias: bool) -> None:
            shapes[f"{name}.weight"] = weight
            if bias:
                shapes[f"{name}.bias"] = weight[:1]

        add("tok_emb", (vocab, width), False)
        add("pos_emb", (context, width), False)
        for i in range(self.n_layers):
            block = f"blocks.{i}"
            add(f"{block}.norm1", (width,), self.bias)
            add(f"{block}.attn.qkv", (3 * width, width), self.qkv_bias)
            add(f"{block}.attn.out", (width, width), self.bias)
            add(f"{block}.norm2", (width,), self.bias)
            add(f"{block}.mlp.up", (inner, width), self.bias)
            add(f"{block}.mlp.down", (width, inner), self.bias)
        add("final_norm", (width,), self.bias)
        if not self.tied:
            add("head", (vocab, width), False)
        return shapes

    def replace(self, **changes: Any) -> GPTConfig:
        """Return a copy with some fields changed. inner_width and vocab_rows are updated if they had their default.

        Raises:
            ConfigError: There is no such field, or the new value is invalid.
        """
        fields = self.to_dict()
        if self.inner_width == 4 * self.width:
            fields["inner_width"] = 0
        if self.vocab_rows == self.vocab_size:
            fields["vocab_rows"] = 0
        return GPTConfig.from_dict({**fields, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> GPTConfig:
        """Build a config from its fields by name; missing fields take their defaults.

        Raises:
            ConfigError: A field is unknown (the message suggests a similar one) or invalid.
        """
        cls.check_names(fields)
        return cls(**fields)

    @classmethod
    def check_names(cls, fields: Mapping[str, Any]) -> None:
        """Raise ConfigError for a name that is not a field; the message offers the nearest."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"fields: {', '.join(known)}"
                raise ConfigError(f"unknown config field {name!r}: {hint}")
