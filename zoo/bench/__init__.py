"""Measure the speed of models and compare it with the limits of the machine and with other libraries."""

from zoo.bench.options import Settings
from zoo.bench.session import bench, write_random

__all__ = ["Settings", "bench", "write_random"]
