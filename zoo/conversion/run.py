"""Run a plan: write to a temporary name, read back, compare bit for bit, rename."""

from __future__ import annotations

import json
import mmap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from blake3 import blake3

import zoo
from zoo.conversion.plan import Plan, plan_path
from zoo.core.memory import PeakMemory
from zoo.core.output import atomic_output, check_output
from zoo.core.stream import WORKERS
from zoo.core.tensors import Tensors
from zoo.errors import OptionError, VerificationFailed
from zoo.formats.content_hash import PADDED, hash_tensors
from zoo.formats.opening import check_redundant
from zoo.formats.registry import usable_formats
from zoo.formats.rules import same_tensor, to_theirs
from zoo.models.gpt2.config import GPTConfig

MAX_FILES = 32
MAX_HISTORY_BYTES = 8 << 10
"""Of the record that a source brings along; a longer one, of very many conversions, is not carried on."""

OnProgress = Callable[[str, int, int], None]
"""Called as on_progress(phase, bytes done, bytes in all), phase being "write" or "verify", from any thread."""


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        source: path of the source.
        source_format: its format.
        out: path of the output.
        target_format: its format.
        tensors: parameters carried over.
        n_parameters: values in them.
        bytes_written: of tensors.
        dropped: source tensors that were not carried over -> why.
        added: target tensors that follow from others.
        tied: whether the head is the embedding.
        prefix: that the source's names had.
        cast: tensors cast, by "from -> to".
        encoding: quantised way of storing, "" for none.
        lossless: whether every value survived.
        verified: whether the output was read back and compared.
        notes: sentences about what was left behind or assumed.
        seconds: wall-clock time.
        peak_memory: anonymous memory in bytes above the start; None where the system does not tell.
        provenance: what the output records of its origin.
    """

    source: str
    source_format: str
    out: str
    target_format: str
    tensors: int
    n_parameters: int
    bytes_written: int
    dropped: dict[str, str]
    added: list[str]
    tied: bool
    prefix: str
    cast: dict[str, int]
    encoding: str
    lossless: bool
    verified: bool
    notes: list[str]
    seconds: float
    peak_memory: int | None
    provenance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


def convert_path(
    source: Path | str,
    out: Path | str,
    *,
    to: str | None = None,
    format: str | None = None,
    size: str | GPTConfig | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    verify: bool = True,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Report:
    """Convert the checkpoint at a path; zoo.convert describes arguments and errors."""
    out, start = Path(out), time.perf_counter()
    target_name = to or format_of_suffix(out)
    check_output(out, force=force)
    with PeakMemory() as memory:
        plan = plan_path(source, target_name, format=format, size=size, dtype=dtype, max_shard_bytes=max_shard_bytes)
        verify = verify and plan.target_format.reads
        provenance = run_plan(plan, out, verify=verify, force=force, on_progress=on_progress)
    return Report(
        source=str(source),
        source_format=plan.source_format.name,
        out=str(out),
        target_format=target_name,
        tensors=len(plan.ours),
        n_parameters=plan.config.n_parameters,
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


def run_plan(
    plan: Plan, out: Path, *, verify: bool = True, force: bool = False, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Write what a plan describes, and return the provenance that the output records.

    Raises:
        ZooError: as convert.
    """
    check_redundant(plan.source, plan.drops)
    with ThreadPoolExecutor(2) as pool, atomic_output(out, needed=plan.nbytes, force=force) as temporary:
        # Quantising makes other tensors than these, so that their hash would not be that of the output.
        content = None if plan.options.encoding else pool.submit(hash_tensors, plan.ours, plan.config)
        provenance = Provenance(plan, pool.submit(hash_files, plan.source.files), content)
        target = replace(plan.target, provenance=provenance)
        options = replace(plan.options, on_bytes=_counter("write", plan.nbytes, on_progress))
        plan.target_format.write(temporary, target, options)
        if verify:
            compare(plan, temporary, _counter("verify", sum(t.nbytes for t in plan.ours.values()), on_progress))
    return dict(provenance)


class Provenance(Mapping[str, Any]):
    """Where the weights came from; the same source gives the same record, whenever and wherever it is converted.

    It is a mapping that is whole only when the source's files and tensors are hashed: looking into it waits for that.
    """

    def __init__(self, plan: Plan, hashes: Future[dict[str, str]], content: Future[str] | None) -> None:
        self._known: dict[str, Any] = {
            "zoo_version": zoo.__version__,
            "source_format": plan.source_format.name,
        }
        if casts := plan.casts():
            self._known["cast"] = casts
        if plan.options.encoding:
            self._known["encoding"] = plan.options.encoding
        earlier = dict(plan.source.provenance)
        if earlier and len(json.dumps(earlier)) < MAX_HISTORY_BYTES:
            self._known["source_provenance"] = earlier
        self._hashes, self._content = hashes, content

    @cached_property
    def _whole(self) -> dict[str, Any]:
        content = {"content_blake3": self._content.result()} if self._content else {}
        return {**self._known, **content, "source_blake3": self._hashes.result()}

    def __getitem__(self, key: str) -> Any:
        return self._whole[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


def compare(plan: Plan, written: Path, on_bytes: Callable[[int], None]) -> None:
    """Read an output back and compare every source tensor with what the inverse rules make of it.

    A quantised output is compared, in its own names, with what quantising makes of the tensors.

    Raises:
        VerificationFailed: a tensor differs; the message names it.
    """
    again = plan.target_format.read(written, plan.config)
    if plan.options.encoding:
        encoding, target = plan.options.encoding, plan.target.tensors
        expected = {name: plan.target_format.stored(name, tensor, encoding) for name, tensor in target.items()}
        found: Tensors = again.tensors
    else:
        ours, _ = plan.target_format.to_ours(again)
        table = plan.source_format.table
        expected = {name: plan.source.tensors[name] for name in table.shapes(plan.config)}
        if plan.dtype is not None:
            expected = {name: tensor.astype(plan.dtype) for name, tensor in expected.items()}
        if plan.config != plan.source.config:
            expected |= {name: tensor for name, tensor in _unpadded(plan).items() if name in expected}
        found = to_theirs(table, ours, plan.config)

    def check(name: str) -> None:
        if name not in found or not same_tensor(expected[name], found[name]):
            raise VerificationFailed(f"{name} does not read back from the output as it is in {plan.source.path}")
        on_bytes(expected[name].nbytes)

    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(check, expected):
            pass


def _unpadded(plan: Plan) -> Tensors:
    """Return the source's embedding and head, in its own names, without their rows of padding."""
    theirs = to_theirs(plan.source_format.table, plan.ours, plan.config)
    names = [name for row in plan.source_format.table.rows(plan.config) if row.ours in PADDED for name in row.theirs]
    return {name: theirs[name] for name in names}


def hash_files(files: tuple[Path, ...]) -> dict[str, str]:
    """Return the BLAKE3 hash of each file, as b3sum prints it, by the file's name.

    Of more than MAX_FILES only the hash of all hashes is kept: the record must fit into a header.
    """
    hashes: dict[str, str] = {}
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # In one call, which leaves the interpreter to the other threads; reading block by block would not.
            hashes[path.name] = blake3(data).hexdigest()
    if len(hashes) > MAX_FILES:
        return {f"{len(hashes)} files": blake3("".join(hashes.values()).encode()).hexdigest()}
    return hashes


def format_of_suffix(out: Path) -> str:
    """Return the name of the format that an output's suffix means.

    Raises:
        OptionError: none does.
    """
    for each in usable_formats():
        if out.suffix in each.suffixes:
            return each.name
    raise OptionError(f"the name {out} does not say which format to write; name one with --to")


def _counter(phase: str, total: int, on_progress: OnProgress | None) -> Callable[[int], None]:
    """Add up bytes from several threads and tell on_progress."""
    done, lock = 0, threading.Lock()

    def count(nbytes: int) -> None:
        nonlocal done
        if on_progress:
            with lock:
                done += nbytes
                on_progress(phase, min(done, total), total)

    return count
