"""Open engines by what a user names."""

from __future__ import annotations

from pathlib import Path

from zoo.engine import Engine
from zoo.hub.resolve import find_checkpoint
from zoo.models.registry import Size


def open_engine(
    source: str | Path,
    *,
    dtype: str | None = None,
    quantize: str | None = None,
    threads: int | None = None,
    format: str | None = None,
    size: Size | None = None,
) -> Engine:
    """Open a checkpoint with the C engine, which needs no torch; quantised weights run on it only.

    Args:
        source: path of a checkpoint in any format, or a registered name.
        dtype: "float32", "bfloat16" or "float16" to cast to; None keeps the file's, float32 where it has several.
        quantize: "int8" or "int4", for the matrices.
        threads: None uses the cores that this process may use.
        format: name of the format; None recognises it by its content.
        size: the model it must be, by name or config.

    Raises:
        MissingWeights: source is a registered name whose weights are not on this machine.
        OptionError: dtype or quantize is none of these, or the engine cannot start.
        ZooError: the checkpoint is damaged, or not what format and size say, or the engine was not built.
    """
    return Engine.open(
        find_checkpoint(source), dtype=dtype, quantize=quantize, threads=threads, format=format, size=size
    )
