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


class Machine:
    """The limits of the machine, measured repeatedly by plain loops in C with as many threads as the engine.

    Attributes:
        bandwidths: Bytes per second of each measurement.
        peaks: Floating-point operations per second of multiply-adds, by dtype, of each measurement.
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

    def peak(self, dtype: str) -> float:
        """Measure the peaks and return that of a dtype. Without bfloat16 instructions, float32's is returned."""
        self._measure_peak("float32", self._library.zoo_multiply, 32)
        if self._library.zoo_multiply_bf16(1):
            self._measure_peak("bfloat16", self._library.zoo_multiply_bf16, 64)
        return self.peaks.get(dtype, self.peaks["float32"])[-1]

    def _measure_peak(self, dtype: str, multiply: Callable[[int], float], operations: int) -> None:
        seconds = self._seconds(lambda _: multiply(_ROUNDS), 3)
        self.peaks[dtype].append(self._threads * _ROUNDS * _SUMS * operations / seconds)

    def _seconds(self, run: Callable[[int], object], times: int) -> float:
        """Return the median time of several runs in all threads."""
        found = []
        for _ in range(times):
            started = time.perf_counter()
            list(self._pool.map(run, range(self._threads)))
            found.append(time.perf_counter() - started)
        return statistics.median(found)
