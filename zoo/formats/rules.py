"""Layouts as tables of rules: the name and orientation of each parameter in a format. Tables work in both directions.

A rule has a parameter's name in the format, its name in zoo, and the pattern of its axes:

    Rule("h.{i}.attn.c_attn.weight", "blocks.{i}.attn.qkv.weight", "i o -> o i")

It is a transpose from left to right when a checkpoint is read and from right to left when it is written, so no inverse
has to be written. Several names on the left are stacked along a new first axis, n. "{i}" is the layer. Lengths of axes
that patterns may take from the config: n = 3 (query, key, value), h = heads, d = head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zoo.core.pattern import Pattern, Shape, parse
from zoo.core.tensors import LazyTensor
from zoo.models.gpt2.config import GPTConfig


@dataclass(frozen=True)
class Rule:
    """One parameter: its names in the format, its name in zoo, and the pattern from the former to the latter ("" =
    same).
    """

    theirs: str | tuple[str, ...]
    ours: str
    how: str = ""


def weight_and_bias(
    theirs: str, ours: str, how: str = "", *, weight: str = ".weight", bias: str = ".bias", bias_how: str = ""
) -> tuple[Rule, Rule]:
    """Return the rules of a layer with a weight and a bias.

    Args:
        theirs: Name of the layer in the format.
        ours: Name of the layer in zoo.
        how: Pattern of the weight.
        weight: Suffix of the weight's name in the format.
        bias: Suffix of the bias's name in the format.
        bias_how: Pattern of the bias.
    """
    return Rule(f"{theirs}{weight}", f"{ours}.weight", how), Rule(f"{theirs}{bias}", f"{ours}.bias", bias_how)


@dataclass(frozen=True)
class Copy:
    """A copy of the token embedding under the head's name, in formats that store tied heads twice.

    Attributes:
        name: Name of the copy.
        source: Name of the copied tensor in the format.
        written: Whether the copy is written. When read, it is always compared and dropped.
    """

    name: str
    source: str
    written: bool


@dataclass(frozen=True)
class Derived:
    """A buffer that follows from the config, such as a causal mask: compared when read, rebuilt when written.

    Attributes:
        name: Name, which may contain "{i}".
        build: Returns the buffer in float32. Masks are compared by value, in any dtype.
        written: Whether it is written, unless it is empty.
        accepts: tells whether a tensor that is read computes the same; None compares it with what `build` gives.
    """

    name: str
    build: Callable[[GPTConfig], LazyTensor]
    written: bool
    accepts: Callable[[LazyTensor], bool] | None = None


@dataclass(frozen=True)
class Row:
    """A rule for one layer: "{i}" is replaced, names are tuples, the pattern is parsed."""

    theirs: tuple[str, ...]
    ours: str
    how: str

    @property
    def pattern(self) -> Pattern | None:
        """The parsed pattern from the format to zoo; None if the tensor is the same."""
        return parse(self.how) if self.how else None


@dataclass(frozen=True)
class Drop:
    """A source tensor that is dropped, and the check that nothing is lost.

    Attributes:
        name: Name in the source.
        why: Reason, as a clause for messages.
        redundant: Reads the tensor and returns whether `why` is true.
    """

    name: str
    why: str
    redundant: Callable[[], bool]


@dataclass(frozen=True)
class Table:
    """The layout of a format."""

    rules: tuple[Rule, ...]
    copies: tuple[Copy, ...] = ()
    derived: tuple[Derived, ...] = ()

    def rows(self, config: GPTConfig) -> list[Row]:
        """Return the rules as rows for this config, one per layer.

        Rules for parameters that the config does not have (a bias, an untied head) give no row.
        """
        wanted = config.parameter_shapes()
        rows = [row for rule in self.rules for row in _spell_out(rule, config.n_layers) if row.ours in wanted]
        covered = [row.ours for row in rows]
        names = [name for row in rows for name in row.theirs]
        if sorted(covered) != sorted(wanted) or len(set(names)) != len(names):
            raise AssertionError("a table must name every parameter once")  # a mistake of the format's author
        return rows

    def shapes(self, config: GPTConfig) -> dict[str, Shape]:
        """Return name and shape of every parameter in the format's layout, without copies and buffers."""
        ours, sizes = config.parameter_shapes(), pattern_sizes(config)
        shapes: dict[str, Shape] = {}
        for row in self.rows(config):
            shape = row.pattern.reversed().shape(ours[row.ours], sizes) if row.pattern else ours[row.ours]
            shapes.update({name: shape[1:] if len(row.theirs) > 1 else shape for name in row.theirs})
        return shapes


def layer_names(name: str, n_layers: int) -> list[str]:
    """Return a name with "{i}" for each layer, or the name alone where it has none."""
    return [name.replace("{i}", str(i)) for i in range(n_layers)] if "{i}" in name else [name]


def _spell_out(rule: Rule, n_layers: int) -> Iterator[Row]:
    theirs = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
    columns = [layer_names(name, n_layers) for name in (*theirs, rule.ours)]
    for *names, ours in zip(*columns, strict=True):
        yield Row(tuple(names), ours, rule.how)


def pattern_sizes(config: GPTConfig) -> dict[str, int]:
    """Return the lengths of the axes that a pattern takes from the config."""
    return {"n": 3, "h": config.n_heads, "d": config.head_size}
