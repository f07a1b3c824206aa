"""Plan a conversion from names, shapes and dtypes, before a byte of output is written."""

from __future__ import annotations

from pathlib import Path

from zoo.conversion.adapt import cast_parameter, change_activation, drop_padding, fill_biases, widening
from zoo.conversion.plan import Plan
from zoo.conversion.target import check_target, make_options
from zoo.core.tensors import get_dtype
from zoo.errors import CheckpointMismatch
from zoo.formats.base import Checkpoint, Format
from zoo.formats.mapping import to_theirs
from zoo.formats.opening import open_path
from zoo.formats.registry import get_format
from zoo.models.registry import Size


def plan_path(
    source: Path | str,
    to: str,
    *,
    format: str | None = None,
    size: Size | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    activation: str | None = None,
    variant: str | None = None,
    strict: bool = False,
) -> Plan:
    """Plan a conversion without writing anything.

    Args:
        source: file or directory of any format, or the name of a model.
        to: name of the target format.
        format: of the source; None recognises it by its content.
        size: the model the source must be.
        dtype: to cast to, or one of the target's encodings; None keeps every tensor's own.
        max_shard_bytes: tensor bytes in a file at most; None writes one file.
        activation: as for zoo.convert.
        variant: as for zoo.convert.
        strict: as for zoo.convert.

    Raises:
        OptionError: the target is not written by zoo, or does not shard.
        UnknownName, FormatError, ConfigError: as open_checkpoint.
        CheckpointMismatch: names, shapes or dtypes are not those of the config; all differences are listed.
        CannotHold: the target has no place for this config or dtype.
    """
    get_format(to)  # a wrong name is refused before anything is opened
    source_format, checkpoint = open_path(source, format=format, size=size)
    checkpoint = change_activation(checkpoint, activation)
    return plan_checkpoint(
        source_format, checkpoint, to, dtype=dtype, max_shard_bytes=max_shard_bytes, variant=variant, strict=strict
    )


def plan_checkpoint(
    source_format: Format,
    source: Checkpoint,
    to: str,
    *,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    variant: str | None = None,
    strict: bool = False,
) -> Plan:
    """Plan the conversion of an opened checkpoint; zoo.make_plan describes the other arguments and the errors."""
    if strict and source.left_behind:
        problems = [f"tensor {name} would be left behind, which strict=True forbids" for name in source.left_behind]
        raise CheckpointMismatch(source.path, problems)
    target_format = get_format(to)
    ours, drops = source_format.to_ours(source)
    name = source.path.stem if source.files else ""
    options = make_options(target_format, dtype, max_shard_bytes, variant, name)
    widened = list[str]()
    if dtype is None:
        cast, widened = widening(target_format, ours)
    else:
        cast = None if options.encoding else get_dtype(dtype)
    if cast is not None:
        ours = {name: cast_parameter(target_format, name, tensor, cast) for name, tensor in ours.items()}
    config, filled = source.config, list[str]()
    if not strict:
        config, ours, filled = fill_biases(target_format, config, ours)
    config, ours, dropped = drop_padding(target_format, config, ours)
    check_target(target_format, config, ours)
    theirs = to_theirs(target_format.layout(options.variant), ours, config)
    target = Checkpoint(path=Path(), config=config, tensors=theirs, vocabulary=source.vocabulary)
    unheld = target_format.unheld(target)
    notes = [*source.notes, *widened, *filled, *dropped, *target_format.notes(target), *unheld]
    return Plan(source_format, source, ours, drops, target_format, target, options, notes, unheld, cast)
