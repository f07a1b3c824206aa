"""Rearrange axes by einops patterns ("n o i -> (n o) i") that can be reversed.

A plan needs output shapes without data, so patterns are implemented here: one reshape, one transpose, one reshape. Only
what layouts need is supported: named axes, groups in parentheses, and the literal 1 (an axis of length 1 that appears
on one side only).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from zoo.core.tensors import Array

Side = tuple[tuple[str, ...], ...]  # one tuple of axis names per tensor axis; () for a literal 1
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Pattern:
    """A rearrangement of the axes on the left into those on the right."""

    left: Side
    right: Side

    def reversed(self) -> Pattern:
        """Return the inverse rearrangement."""
        return Pattern(self.right, self.left)

    def shape(self, shape: Shape, sizes: Mapping[str, int]) -> Shape:
        """Return the output shape for an input shape.

        Args:
            shape: Shape of the input.
            sizes: Lengths of axes that the shape does not determine.

        Raises:
            ValueError: The shape does not fit the left side.
        """
        axes = _lengths(self.left, shape, sizes)
        return tuple(math.prod(axes[name] for name in group) for group in self.right)

    def apply(self, array: Array, sizes: Mapping[str, int]) -> Array:
        """Rearrange an array. The result is a view unless the merged axes are not contiguous in memory.

        Raises:
            ValueError: The shape of the array does not fit the left side.
        """
        axes = _lengths(self.left, array.shape, sizes)
        before = [name for group in self.left for name in group]
        after = [name for group in self.right for name in group]
        split = array.reshape([axes[name] for name in before])
        return split.transpose([before.index(name) for name in after]).reshape(self.shape(array.shape, sizes))


@cache
def parse(text: str) -> Pattern:
    """Parse a pattern such as "1 i o -> o i".

    Raises:
        ValueError: The two sides have different axes, or an axis appears twice on a side.
    """
    left, right = (_parse_side(side) for side in text.split("->"))
    names = [sorted(name for group in side for name in group) for side in (left, right)]
    if names[0] != names[1] or len(set(names[0])) != len(names[0]):
        raise ValueError(f"pattern {text!r}: each axis must appear once on each side")
    return Pattern(left, right)


def _parse_side(text: str) -> Side:
    tokens = re.findall(r"\([^()]*\)|\w+", text)
    return tuple(() if token == "1" else tuple(token.strip("()").split()) for token in tokens)


def _lengths(side: Side, shape: Shape, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the length of every axis; in each group, at most one may be missing from sizes."""
    if len(side) != len(shape):
        raise ValueError(f"{len(shape)} axes where the layout has {len(side)}")
    axes: dict[str, int] = {}
    for group, length in zip(side, shape, strict=True):
        unknown = [name for name in group if name not in sizes]
        known = math.prod(sizes[name] for name in group if name in sizes)
        if len(unknown) > 1:
            raise ValueError(f"the lengths of {', '.join(unknown)} are ambiguous")
        if (unknown and known and length % known) or (not unknown and length != known):
            raise ValueError(f"an axis of length {length} does not split into {' x '.join(group) or '1'}")
        axes.update({name: sizes[name] for name in group if name in sizes})
        axes.update(dict.fromkeys(unknown, length // known))
    return axes
