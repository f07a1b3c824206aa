"""Measuring how fast models run here, beside what the machine could do and beside other libraries."""

from zoo.bench.options import Settings
from zoo.bench.session import bench, write_random

__all__ = ["Settings", "bench", "write_random"]
