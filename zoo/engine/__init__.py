"""The decode engine: a C library for the CPU beside the torch model. docs/speed.md explains how it works."""

from zoo.engine.backend import Engine
from zoo.engine.handle import default_threads, is_built
from zoo.engine.kv_cache import EngineCache

__all__ = ["Engine", "EngineCache", "default_threads", "is_built"]
