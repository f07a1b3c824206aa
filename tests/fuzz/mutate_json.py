"""Damage a JSON tree: values of wrong kinds and sizes, names that lead elsewhere, keys gone, moved or doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

NAMES = ["", ".", "..", "../x", "../../../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "a\0b", "\ud800", "x" * 5000]
NAMES += ["~", "CON", "\x1b[2J", "\u202e", "C:\\x", "file:///etc/passwd", "-", "%s%n", "{0}", "model.safetensors"]

_NUMBERS = [0, 1, 2, 3, 4, -1, 7, 255, 1024, 65536, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 48, (1 << 63) - 1, 1 << 63]
_NUMBERS += [1 << 64, -(1 << 63), 10**30, 10**400]
_FLOATS = [0.5, -0.0, 1e-320, 1e308, -1e308, float("inf"), float("nan"), 3.0]


def mutate_json(random: Random, tree: Any) -> Any:
    """Change one to three places in a tree, which is changed itself, and return it."""
    for _ in range(random.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return _value(random)
        parent, key = random.choice(places)
        _change(random, parent, key, places)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) of a tree; without recursion, which takes a minute for deep and wide ones."""
    stack = [(tree, _keys(tree))]
    while stack:
        node, keys = stack[-1]
        key = next(keys, None)
        if key is None:
            stack.pop()
        else:
            yield node, key
            stack.append((node[key], _keys(node[key])))


def _keys(node: Any) -> Iterator[Any]:
    return iter(list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ())


def _change(random: Random, parent: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    kind, value = random.randrange(9), parent[key]
    if kind <= 3:
        if isinstance(value, str) and value[:1] in ("{", "[") and random.random() < 0.8:  # JSON in JSON: zoo.config
            parent[key] = json.dumps(mutate_json(random, json.loads(value)))
        else:
            parent[key] = _near(random, value)
    elif kind == 4:
        del parent[key]
    elif kind == 5:
        parent[key] = _value(random)
    elif kind == 6:
        other, at = random.choice(places)
        if isinstance(at, int) and at >= len(other):
            return
        parent[key] = json.loads(json.dumps(other.get(at) if isinstance(other, dict) else other[at]))
    elif kind == 7 and isinstance(parent, dict):
        parent[random.choice((random.choice(NAMES), f"{key}x", str(key)[:-1]))] = parent.pop(key)
    elif isinstance(parent, list):
        parent[key:key] = [json.loads(json.dumps(value))] * random.choice((1, 2, 50))
    else:
        parent[f"{key}.{random.randrange(3)}"] = json.loads(json.dumps(value))


def _near(random: Random, value: Any) -> Any:
    """A value of the same kind, so that it passes a check of types."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice((random.choice(_NUMBERS), value + random.choice((-1, 1, 8)), -value))
    if isinstance(value, float):
        return random.choice(_FLOATS)
    if isinstance(value, str):
        return random.choice((random.choice(NAMES), value + "x", value[:-1], value.upper()))
    return _value(random)


def _value(random: Random) -> Any:
    if random.random() < 0.05:
        deep: Any = []
        for _ in range(random.choice((50, 150, 900))):
            deep = [deep] if random.random() < 0.5 else {"a": deep}
        return deep
    return random.choice(
        (
            None,
            True,
            random.choice(_NUMBERS),
            random.choice(_FLOATS),
            random.choice(NAMES),
            [],
            {},
            [1] * random.choice((1, 9, 70)),
            [[1, 2], [3, 4]],
            {"a": 1},
        )
    )
