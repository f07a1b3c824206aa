"""The special tokens of a checkpoint: the ids that end a text, the id that begins it, the id that pads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class SpecialTokens:
    """Ids with a role, as a checkpoint's files declare them.

    Attributes:
        eos: ids that end a text; the first is the one that stands between documents.
        bos: id that a text begins with, None if there is none.
        pad: id that fills batches, None if there is none.
    """

    eos: tuple[int, ...] = ()
    bos: int | None = None
    pad: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the ids as plain JSON values."""
        return {"eos": list(self.eos), "bos": self.bos, "pad": self.pad}

    @classmethod
    def from_dict(cls, fields: Any) -> SpecialTokens:
        """Return the ids that to_dict() wrote; values that are not ids are left out."""
        fields = fields if isinstance(fields, Mapping) else {}
        return cls(ids(fields.get("eos")), first(fields.get("bos")), first(fields.get("pad")))

    def within(self, n_tokens: int) -> tuple[SpecialTokens, list[str]]:
        """Leave out the ids that a model has no row for, and return a note on each of them."""
        roles = {"eos": self.eos, "bos": ids(self.bos), "pad": ids(self.pad)}
        notes = [
            f"the {role} token id {i} is outside the model's {n_tokens:,} tokens and is left out"
            for role, found in roles.items()
            for i in found
            if i >= n_tokens
        ]
        kept = {role: tuple(i for i in found if i < n_tokens) for role, found in roles.items()}
        return replace(self, eos=kept["eos"], bos=first(kept["bos"]), pad=first(kept["pad"])), notes


def ids(value: Any) -> tuple[int, ...]:
    """Return the ids of a JSON value that holds one, several or none."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(i for i in values if type(i) is int and i >= 0)


def first(value: Any) -> int | None:
    """Return the first of ids(value), None if there is none."""
    return next(iter(ids(value)), None)
