"""The decode engine: a C library for the CPU beside the torch model. docs/speed.md tells how it works."""

from zoo.engine.cache import EngineCache
from zoo.engine.engine import Engine, default_threads, is_built

__all__ = ["Engine", "EngineCache", "default_threads", "is_built"]
