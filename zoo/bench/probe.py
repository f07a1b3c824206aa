"""What this machine can do: the floors of decoding (bytes to be read) and of prefill (operations)."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from zoo.engine import native
from zoo.errors import ZooError

_FLOATS = 64 << 20  # 268 MB: far more than any cache holds
_ROUNDS = 5_000_000  # of multiplications: some 10 ms
_SUMS = 12  # of probe.c


class Machine:
    """What it can do, measured again and again by plain loops in C, in as many threads as the engine's.

    Attributes:
        bandwidths: bytes a second, each time.
        peaks: for each dtype, floating-point operations a second of multiplying and adding, each time.
    """

    def __init__(self, threads: int) -> None:
        """Take memory to read.

        Raises:
            ZooError: zoo was installed without its C library.
        """
        library = native.library()
        if library is None:
            raise ZooError(
                "the engine that `zoo bench` measures was not built here; install zoo where there is a C compiler"
            )
        self._library, self._threads, self._pool = library, threads, ThreadPoolExecutor(threads)
        # Values that differ, so that no page of memory can stand for several.
        values = np.random.default_rng(0).standard_normal(_FLOATS, np.float32)
        self._parts = [part[: len(part) // 128 * 128] for part in np.array_split(values, threads)]
        self.bandwidths: list[float] = []
        self.peaks: dict[str, list[float]] = defaultdict(list)

    def bandwidth(self) -> float:
        """Measure and return the bandwidth: the median of five readings."""
        seconds = self._seconds(lambda i: self._library.zoo_read(self._parts[i].ctypes.data, self._parts[i].size), 5)
        self.bandwidths.append(sum(part.nbytes for part in self._parts) / seconds)
        return self.bandwidths[-1]

    def peak(self, dtype: str) -> float:
        """Measure the peaks and return that of a dtype, which is float32's where there are no bfloat16 instructions."""
        self._measure_peak("float32", self._library.zoo_multiply, 32)
        if self._library.zoo_multiply_bf16(1):
            self._measure_peak("bfloat16", self._library.zoo_multiply_bf16, 64)
        return self.peaks.get(dtype, self.peaks["float32"])[-1]

    def _measure_peak(self, dtype: str, multiply: Callable[[int], float], operations: int) -> None:
        seconds = self._seconds(lambda _: multiply(_ROUNDS), 3)
        self.peaks[dtype].append(self._threads * _ROUNDS * _SUMS * operations / seconds)

    def _seconds(self, run: Callable[[int], object], times: int) -> float:
        """The median of several runs in all threads."""
        found = []
        for _ in range(times):
            started = time.perf_counter()
            list(self._pool.map(run, range(self._threads)))
            found.append(time.perf_counter() - started)
        return statistics.median(found)
