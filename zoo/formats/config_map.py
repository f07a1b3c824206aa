"""Map a format's config to zoo's by a table that works in both directions, like that of the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import CannotHold, ConfigError, FormatError
from zoo.models.gpt2.config import GPTConfig

_REQUIRED = object()


@dataclass(frozen=True)
class Field:
    """A config field and the keys under which the format stores it.

    Attributes:
        theirs: Key, or several equivalent keys: the first one present is read, all are written.
        ours: Field of GPTConfig.
        default: Value if the key is absent or null; without a default, the key is required.
        values: All possible values of the format -> values in zoo. If several have the same meaning, the first one is
            written.
        aliases: further keys that are read, never written; they must not contradict the others.
    """

    theirs: str | tuple[str, ...]
    ours: str
    default: Any = _REQUIRED
    values: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of the field."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


@dataclass(frozen=True)
class Constant:
    """A key that must have a fixed value, because zoo's model supports no other. An absent key has this value."""

    theirs: str
    value: Any
    written: bool = True


@dataclass(frozen=True)
class ConfigMap:
    """The config table of a format.

    Attributes:
        fields: Keys that correspond to fields.
        constants: Keys that must have a fixed value.
        implied: Fields without a key -> the only value that this format can represent.
        forgotten: Fields that the format does not store and that affect no tensor, such as dropout.
        passive: further keys that do not change what the model computes; any other key is a note. None: notes on none.
    """

    fields: tuple[Field, ...]
    constants: tuple[Constant, ...] = ()
    implied: Mapping[str, Any] = field(default_factory=dict)
    forgotten: tuple[str, ...] = ()
    passive: frozenset[str] | None = None

    def read(self, theirs: Mapping[str, Any], path: Path) -> tuple[GPTConfig, list[str]]:
        """Return the config and a note for everything in it that zoo cannot keep.

        Raises:
            FormatError: A required key is missing, or a value is not supported by zoo's model.
        """
        for constant in self.constants:
            if theirs.get(constant.theirs, constant.value) != constant.value:
                found = f"{theirs[constant.theirs]!r:.80}"
                raise FormatError(path, f"{constant.theirs} is {found}; zoo's GPT-2 supports only {constant.value!r}")
        notes = self._unknown(theirs, path)
        ours = dict(self.implied)
        for item in self.fields:
            ours[item.ours] = self._read_field(item, theirs, path, notes)
        try:
            return GPTConfig.from_dict(ours), notes
        except ConfigError as error:
            raise FormatError(path, str(error)) from error

    def _unknown(self, theirs: Mapping[str, Any], path: Path) -> list[str]:
        """Name the keys that zoo leaves out, not knowing whether they change the computation."""
        if self.passive is None:
            return []
        ours = {key for item in self.fields for key in (*item.keys, *item.aliases)}
        known = ours | {constant.theirs for constant in self.constants} | self.passive
        unknown = [str(key) for key in theirs if key not in known]
        return [f"{path.name} has keys that zoo does not know and leaves out: {', '.join(unknown)}"] if unknown else []

    @staticmethod
    def _read_field(item: Field, theirs: Mapping[str, Any], path: Path, notes: list[str]) -> Any:
        present = {key: theirs[key] for key in (*item.keys, *item.aliases) if theirs.get(key) is not None}
        if not present and item.default is _REQUIRED:
            raise FormatError(path, f"{item.keys[0]} is missing, so its config is not that of a GPT-2")
        value = next(iter(present.values()), item.default)
        if any(other != value for other in present.values()):
            spelled = ", ".join(f"{key} {other}" for key, other in present.items())
            if any(present.get(key, value) != value for key in item.aliases):
                raise FormatError(path, f"has {spelled}, which mean the same; remove the wrong ones")
            notes.append(f"{path.name} has {spelled}; zoo has one {item.ours} and keeps {value}")
        if not item.values:
            return value
        if not isinstance(value, str) or value not in item.values:
            choices = ", ".join(repr(choice) for choice in item.values)
            raise FormatError(path, f"{item.keys[0]} is {value!r}; zoo knows {choices}")
        return item.values[value]

    def write(self, config: GPTConfig) -> dict[str, Any]:
        """Return the config with the format's keys.

        Raises:
            CannotHold: The format cannot represent a value; the message names all of them.
        """
        if reasons := self.cannot_hold(config):
            raise CannotHold("; ".join(reasons))
        theirs: dict[str, Any] = {constant.theirs: constant.value for constant in self.constants if constant.written}
        for item in self.fields:
            back = {ours: spelling for spelling, ours in reversed(list(item.values.items()))}
            value = getattr(config, item.ours)
            theirs.update({key: back.get(value, value) for key in item.keys})
        return theirs

    def cannot_hold(self, config: GPTConfig) -> list[str]:
        """Return the values that the format cannot represent; an empty list means that it holds the config."""
        held = config.replace(**self.implied)
        return [
            f"it has no place for {name} {getattr(config, name)!r} (only {getattr(held, name)!r})"
            for name in self.implied
            if getattr(held, name) != getattr(config, name)
        ]

    def forgets(self, config: GPTConfig) -> list[str]:
        """Return notes on the values that will be read back as defaults, because the format does not store them."""
        default = GPTConfig()
        return [
            f"the format does not store {name}: {getattr(config, name)!r} will read as {getattr(default, name)!r}"
            for name in self.forgotten
            if getattr(config, name) != getattr(default, name)
        ]
