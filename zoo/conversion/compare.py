"""Read an output back and compare it with its source, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zoo.conversion.plan import Plan
from zoo.core.stream import WORKERS
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import VerificationFailed
from zoo.formats.content_hash import PADDED
from zoo.formats.mapping import same_tensor, to_theirs
from zoo.models.gpt2.config import GPTConfig


def compare(plan: Plan, written: Path, on_bytes: Callable[[int], None]) -> None:
    """Read an output back and compare every source tensor with what the inverse rules give.

    A quantised output is compared, in its own names, with the quantised tensors.

    Raises:
        VerificationFailed: A tensor differs; the message names it.
    """
    again = plan.target_format.read(written, plan.target.config.to_dict())
    if plan.options.encoding:
        encoding, target = plan.options.encoding, plan.target.tensors
        expected = {name: plan.target_format.stored(name, tensor, encoding) for name, tensor in target.items()}
        found: Tensors = again.tensors
    else:
        ours, _ = plan.target_format.to_ours(again)
        table, config = plan.source_format.table, plan.source.config
        expected = {name: plan.source.tensors[name] for name in table.shapes(config)}
        if plan.dtype is not None:
            expected = _cast(plan, expected)
        if (rows := plan.target.config.vocab_rows) != config.vocab_rows:
            config = config.replace(vocab_rows=rows)
            expected |= _unpadded(plan, config)
        found = to_theirs(table, ours, config)

    def check(name: str) -> None:
        if name not in found or not same_tensor(expected[name], found[name]):
            raise VerificationFailed(f"{name} in the output differs from {plan.source.path}")
        on_bytes(expected[name].nbytes)

    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(check, expected):
            pass


def _cast(plan: Plan, tensors: Tensors) -> dict[str, LazyTensor]:
    """Return the source's tensors, in its own names, cast as the plan's are."""
    rows = plan.source_format.table.rows(plan.source.config)
    dtypes = {name: plan.ours[row.ours].dtype for row in rows for name in row.theirs}
    return {name: tensor.astype(dtypes[name]) for name, tensor in tensors.items()}


def _unpadded(plan: Plan, config: GPTConfig) -> Tensors:
    """Return the source's embedding and head, in its own names, without their padding rows."""
    table = plan.source_format.table
    theirs = to_theirs(table, plan.ours, config)
    return {name: theirs[name] for row in table.rows(config) if row.ours in PADDED for name in row.theirs}
