"""zoo: GPT-2 weights from wherever they are into wherever they are wanted, and run.

    import zoo

    model = zoo.load("gpt2m.safetensors")
    print(zoo.complete(model, "Every effort moves you"))

Nothing here is imported before it is used: `import zoo` costs milliseconds, and what needs no torch imports none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "GPTConfig": "zoo.config",
    "register": "zoo.registry",
    "get_config": "zoo.registry",
    "list_models": "zoo.registry",
    "Format": "zoo.format",
    "Checkpoint": "zoo.format",
    "list_formats": "zoo.plugins",
    "get_format": "zoo.plugins",
    "open_checkpoint": "zoo.plan",
    "make_plan": "zoo.plan",
    "convert": "zoo.conversion",
    "Report": "zoo.conversion",
    "content_hash": "zoo.content",
    "diff": "zoo.difference",
    "Tokenizer": "zoo.tokenizer",
    "GPTModel": "zoo.model",
    "KVCache": "zoo.cache",
    "create": "zoo.init",
    "load": "zoo.loading",
    "save": "zoo.loading",
    "Token": "zoo.generation",
    "generate": "zoo.generation",
    "complete": "zoo.generation",
    "ZooError": "zoo.errors",
}
"""Public name -> module that has it."""

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604 - all strings

if TYPE_CHECKING:
    from zoo.cache import KVCache as KVCache
    from zoo.config import GPTConfig as GPTConfig
    from zoo.content import content_hash as content_hash
    from zoo.conversion import Report as Report
    from zoo.conversion import convert as convert
    from zoo.difference import diff as diff
    from zoo.errors import ZooError as ZooError
    from zoo.format import Checkpoint as Checkpoint
    from zoo.format import Format as Format
    from zoo.generation import Token as Token
    from zoo.generation import complete as complete
    from zoo.generation import generate as generate
    from zoo.init import create as create
    from zoo.loading import load as load
    from zoo.loading import save as save
    from zoo.model import GPTModel as GPTModel
    from zoo.plan import make_plan as make_plan
    from zoo.plan import open_checkpoint as open_checkpoint
    from zoo.plugins import get_format as get_format
    from zoo.plugins import list_formats as list_formats
    from zoo.registry import get_config as get_config
    from zoo.registry import list_models as list_models
    from zoo.registry import register as register
    from zoo.tokenizer import Tokenizer as Tokenizer


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
