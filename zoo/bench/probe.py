"""Measure the limits of the machine: the bandwidth, which limits decode, and the peak, which limits prefill."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from zoo.engine import native
from zoo.errors import ZooError

_FLOATS = 64 << 20  # 268 MB, far larger than any cache
_ROUNDS = 5_000_000  # multiplications, which take about 10 ms
_SUMS = 12  # exported by probe.c
_OPERANDS = {"bfloat16": "bfloat16", "int8": "int16", "int4": "int16"}  # what prefill multiplies; else float32


class Machine:
    """The limits of the machine, measured repeatedly by plain loops in C with as many threads as the engine.

    Attributes:
        bandwidths: Bytes per second of each measurement.
        peaks: Operations per second of multiply-adds, by dtype of the operands, of each measurement.
    """

    def __init__(self, threads: int) -> None:
        """Allocate the memory to read.

        Raises:
            ZooError: zoo was installed without its C library.
        """
        library = native.library()
        if library is None:
            raise ZooError(
                "the engine that `zoo bench` measures was not compiled; install a C compiler and then zoo again"
            )
        self._library, self._threads, self._pool = library, threads, ThreadPoolExecutor(threads)
        # Different values, so that the system cannot share one page for several.
        values = np.random.default_rng(0).standard_normal(_FLOATS, np.float32)
        self._parts = [part[: len(part) // 128 * 128] for part in np.array_split(values, threads)]
        self.bandwidths: list[float] = []
        self.peaks: dict[str, list[float]] = defaultdict(list)

    def bandwidth(self) -> float:
        """Measure and return the bandwidth, the median of five passes."""
        seconds = self._seconds(lambda i: self._library.zoo_read(self._parts[i].ctypes.data, self._parts[i].size), 5)
        self.bandwidths.append(sum(part.nbytes for part in self._parts) / seconds)
        return self.bandwidths[-1]

    def peak(self, precision: str) -> float:
        """Measure and return the peak of the products that prefill computes with weights of a precision.

        It is that of float32 for bfloat16 weights where the processor has no products of bfloat16.
        """
        operand = _OPERANDS.get(precision, "float32")
        if operand == "bfloat16" and not self._library.zoo_multiply_bf16(1):
            operand = "float32"
        name, operations = {
            "float32": ("zoo_multiply", 32),
            "bfloat16": ("zoo_multiply_bf16", 64),
            "int16": ("zoo_multiply_int16", 64),
        }[operand]
        multiply = getattr(self._library, name)
        seconds = self._seconds(lambda _: multiply(_ROUNDS), 3)
        self.peaks[operand].append(self._threads * _ROUNDS * _SUMS * operations / seconds)
        return self.peaks[operand][-1]

    def _seconds(self, run: Callable[[int], object], times: int) -> float:
        """Return the median time of several runs in all threads."""
        found = []
        for _ in range(times):
            started = time.perf_counter()
            list(self._pool.map(run, range(self._threads)))
            found.append(time.perf_counter() - started)
        return statistics.median(found)
