"""Choose the format of an output by its name, and check that it can hold the model."""

from __future__ import annotations

from pathlib import Path

from zoo.core.tensors import DTYPES, Tensors
from zoo.errors import CannotHold, OptionError, UnknownName
from zoo.formats.base import Format, WriteOptions
from zoo.formats.registry import usable_formats
from zoo.models.gpt2.config import GPTConfig


def check_shape(target: Format, out: Path) -> None:
    """Refuse a directory format whose output is named like a file of another format.

    Raises:
        OptionError: it is.
    """
    if not target.is_directory:
        return
    if meant := [each.name for each in usable_formats() if out.suffix in each.suffixes]:
        raise OptionError(
            f"{target.name} is written as a directory, but {out} has the suffix of a file ({', '.join(meant)}); "
            "leave the suffix out, or choose another format"
        )


def format_of_suffix(out: Path) -> str:
    """Return the name of the format that an output's suffix means.

    Raises:
        OptionError: none does.
    """
    for each in usable_formats():
        if out.suffix in each.suffixes:
            return each.name
    raise OptionError(f"the name {out} does not say which format to write; name one with to=NAME")


def check_target(target: Format, config: GPTConfig, ours: Tensors) -> None:
    """Refuse a model that a format cannot represent.

    Raises:
        CannotHold: the config or a dtype has no place in it.
    """
    reasons = target.cannot_hold(config)
    dtypes = sorted({str(tensor.dtype) for tensor in ours.values()} - set(target.dtypes))
    reasons += [
        f"it does not store {dtype} (only {', '.join(target.dtypes)}; cast with dtype=NAME)" for dtype in dtypes
    ]
    if reasons:
        change = "; activation=NAME converts it all the same, and says how far the logits differ"
        hint = change if any("place for activation" in reason for reason in reasons) else ""
        raise CannotHold(f"the format {target.name} cannot hold this model: {'; '.join(reasons)}{hint}")


def make_options(
    target: Format, dtype: str | None, max_shard_bytes: int | None, variant: str | None, name: str
) -> WriteOptions:
    """Check the options for writing a format and return them.

    Raises:
        OptionError: The format is not written by zoo, or does not shard.
        UnknownName: It has no such dtype, encoding or variant.
    """
    if not target.writes:
        raise OptionError(f"zoo reads {target.name}, but does not write it; `zoo formats` shows what it writes")
    if max_shard_bytes is not None and not target.shards:
        raise OptionError(f"{target.name} is one file; max_shard_bytes=N is for formats that split the weights")
    if dtype and dtype not in DTYPES and dtype not in target.encodings:
        raise UnknownName(f"dtype of {target.name}", dtype, (*target.dtypes, *target.encodings))
    if variant and variant not in target.variants:
        raise UnknownName(f"variant of {target.name}", variant, target.variants)
    encoding = dtype if dtype in target.encodings else None
    return WriteOptions(encoding=encoding or "", max_shard_bytes=max_shard_bytes, variant=variant or "", name=name)
