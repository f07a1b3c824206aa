"""Run a plan: write to a temporary name, read back, compare bit for bit, rename."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.conversion.plan import Plan, plan_path
from zoo.conversion.provenance import hash_files, known_origin
from zoo.conversion.report import Report
from zoo.conversion.target import check_shape, format_of_suffix
from zoo.core.memory import PeakMemory
from zoo.core.output import atomic_output, check_output
from zoo.core.progress import OnProgress
from zoo.core.stream import WORKERS
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import VerificationFailed
from zoo.formats.content_hash import PADDED, RECORD, check_recorded, hash_tensors, recorded_hash
from zoo.formats.mapping import same_tensor, to_theirs
from zoo.formats.opening import check_redundant
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import Size


def convert_path(
    source: Path | str,
    out: Path | str,
    *,
    to: str | None = None,
    format: str | None = None,
    size: Size | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    activation: str | None = None,
    variant: str | None = None,
    strict: bool = False,
    verify: bool = True,
    force: bool = False,
    sync: bool = True,
    on_progress: OnProgress | None = None,
) -> Report:
    """Convert a checkpoint to another format, one tensor at a time.

    Args:
        source: file or directory to read.
        out: file or directory to write; it appears only when it is complete.
        to: the target format; None takes the one that out's suffix means.
        format: of the source; None recognises it by its content.
        size: the model the source must be, by name or config.
        dtype: to cast to, or one of the target's encodings, such as "int4"; None keeps every tensor's own.
        max_shard_bytes: tensor bytes in a file at most, for formats that shard; None writes one file.
        activation: to write instead of the model's own, "gelu_tanh" or "gelu"; the report says how far logits differ.
        variant: one of the format's variants: book "no-masks", gguf "untied", huggingface "no-prefix".
        strict: whether to refuse what would otherwise be left behind (a value head, say) or added (biases of zeros).
        verify: whether to read the output back and compare it bit for bit with the source (formats that zoo only
            writes cannot be).
        force: whether an existing output may be replaced.
        sync: whether the output survives a power failure from the moment this returns.
        on_progress: called as the bytes go by.

    Raises:
        ZooError: anything make_plan raises; a damaged source; OutputError; VerificationFailed.
    """
    out = Path(out)

    def make_plan() -> Plan:
        target = to or format_of_suffix(out)
        options: dict[str, Any] = {
            "dtype": dtype,
            "max_shard_bytes": max_shard_bytes,
            "strict": strict,
            "activation": activation,
            "variant": variant,
        }
        return plan_path(source, target, format=format, size=size, **options)

    return run_plan(make_plan, out, verify=verify, force=force, sync=sync, on_progress=on_progress)


def run_plan(
    make_plan: Callable[[], Plan],
    out: Path,
    *,
    verify: bool = True,
    force: bool = False,
    sync: bool = True,
    on_progress: OnProgress | None = None,
) -> Report:
    """Plan a conversion, write the output and report on it. Arguments and errors are those of zoo.convert."""
    start = time.perf_counter()
    check_output(out, force=force)
    with PeakMemory() as memory:
        plan = make_plan()
        check_shape(plan.target_format, out)
        verify = verify and plan.target_format.reads
        provenance = _write(plan, out, verify=verify, force=force, sync=sync, on_progress=on_progress)
    return Report(
        source=str(plan.source.path),
        source_format=plan.source_format.name,
        out=str(out),
        target_format=plan.target_format.name,
        tensors=len(plan.source.config.parameter_shapes()),
        n_parameters=plan.source.config.n_parameters,
        bytes_written=plan.nbytes,
        dropped={drop.name: drop.why for drop in plan.drops},
        added=plan.added(),
        tied=plan.source.config.tied,
        prefix=plan.source.prefix,
        cast=plan.casts(),
        encoding=plan.options.encoding,
        lossless=plan.lossless,
        verified=verify,
        notes=plan.notes,
        seconds=time.perf_counter() - start,
        peak_memory=memory.peak,
        provenance=provenance,
    )


def _write(
    plan: Plan, out: Path, *, verify: bool, force: bool, sync: bool, on_progress: OnProgress | None
) -> dict[str, Any]:
    """Write the output of a plan, compare it, and return the provenance that it records."""
    check_redundant(plan.source, plan.drops)
    with ThreadPoolExecutor(2) as pool, atomic_output(out, needed=plan.nbytes, force=force, sync=sync) as temporary:
        hashes = pool.submit(hash_files, plan.source.files)
        known = plan.target_format.reads or not plan.options.encoding  # what an encoding makes of values is read back
        content = pool.submit(hash_tensors, _stored(plan), plan.target.config) if known else None
        recorded = verify and recorded_hash(plan.source) is not None
        changed = plan.casts() or plan.options.encoding or plan.target.config != plan.source.config
        as_read = pool.submit(_hash_source, plan) if recorded and changed else content

        def provenance() -> dict[str, Any]:
            record = known_origin(plan)
            if content:
                record[RECORD] = content.result()
            return {**record, "source_blake3": hashes.result()} if plan.source.files else record

        on_bytes = _counter("write", plan.nbytes, on_progress)
        plan.target_format.write(
            temporary, plan.target, replace(plan.options, on_bytes=on_bytes, provenance=provenance)
        )
        if verify:
            compare(plan, temporary, _counter("verify", sum(t.nbytes for t in plan.ours.values()), on_progress))
        if recorded and as_read:
            check_recorded(plan.source, as_read.result())
        return provenance()


def _hash_source(plan: Plan) -> str:
    """Return the content hash of the source's tensors, before any cast."""
    ours, _ = plan.source_format.to_ours(plan.source)
    return hash_tensors(ours, plan.source.config)


def _stored(plan: Plan) -> Tensors:
    """Return the tensors, in zoo's names, that reading the output will give."""
    if not plan.options.encoding:
        return plan.ours
    target, encoding = plan.target, plan.options.encoding
    stored = {name: plan.target_format.stored(name, tensor, encoding) for name, tensor in target.tensors.items()}
    return plan.target_format.to_ours(replace(target, tensors=stored))[0]


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


def _counter(phase: str, total: int, on_progress: OnProgress | None) -> Callable[[int], None]:
    """Return a callback that adds up bytes from several threads and passes the sum to on_progress."""
    done, lock = 0, threading.Lock()

    def count(nbytes: int) -> None:
        nonlocal done
        if on_progress:
            with lock:
                done += nbytes
                on_progress(phase, min(done, total), total)

    return count
