"""Measuring how fast models run here, beside what the machine could do and beside other libraries."""

from zoo.bench.run import bench, write_random
from zoo.bench.settings import Settings

__all__ = ["Settings", "bench", "write_random"]
