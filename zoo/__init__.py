"""zoo: convert GPT-2 checkpoints between formats, prove that nothing changed, and run or train them.

    import zoo

    model = zoo.load("gpt2m.safetensors")
    print(zoo.complete(model, "Every effort moves you"))

Everything is imported on first use: `import zoo` takes milliseconds, and only what needs torch imports it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "GPTConfig": "zoo.models.gpt2.config",
    "register": "zoo.models.registry",
    "get_config": "zoo.models.registry",
    "list_models": "zoo.models.registry",
    "Format": "zoo.formats.base",
    "Checkpoint": "zoo.formats.base",
    "list_formats": "zoo.formats.registry",
    "get_format": "zoo.formats.registry",
    "open_checkpoint": "zoo.api.checkpoints",
    "make_plan": "zoo.api.checkpoints",
    "convert": "zoo.api.checkpoints",
    "Plan": "zoo.conversion.plan",
    "Report": "zoo.conversion.report",
    "content_hash": "zoo.api.checkpoints",
    "diff": "zoo.api.checkpoints",
    "Diff": "zoo.examine.diff",
    "verify": "zoo.api.checkpoints",
    "Check": "zoo.examine.arrangement",
    "push": "zoo.api.publish",
    "Tokenizer": "zoo.text.tokenizer",
    "GPTModel": "zoo.models.gpt2.model",
    "KVCache": "zoo.models.gpt2.kv_cache",
    "create": "zoo.models.gpt2.init",
    "load": "zoo.api.models",
    "save": "zoo.conversion.save",
    "open_engine": "zoo.api.engines",
    "Engine": "zoo.engine.backend",
    "GenerationOptions": "zoo.generation.options",
    "Token": "zoo.generation.row",
    "generate": "zoo.api.text",
    "complete": "zoo.api.text",
    "generate_batch": "zoo.api.text",
    "complete_batch": "zoo.api.text",
    "generate_many": "zoo.api.text",
    "ZooError": "zoo.errors",
}
"""Public name -> module that has it."""

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604 - all strings

if TYPE_CHECKING:
    from zoo.api.checkpoints import content_hash as content_hash
    from zoo.api.checkpoints import convert as convert
    from zoo.api.checkpoints import diff as diff
    from zoo.api.checkpoints import make_plan as make_plan
    from zoo.api.checkpoints import open_checkpoint as open_checkpoint
    from zoo.api.checkpoints import verify as verify
    from zoo.api.engines import open_engine as open_engine
    from zoo.api.models import load as load
    from zoo.api.publish import push as push
    from zoo.api.text import complete as complete
    from zoo.api.text import complete_batch as complete_batch
    from zoo.api.text import generate as generate
    from zoo.api.text import generate_batch as generate_batch
    from zoo.api.text import generate_many as generate_many
    from zoo.conversion.plan import Plan as Plan
    from zoo.conversion.report import Report as Report
    from zoo.conversion.save import save as save
    from zoo.engine.backend import Engine as Engine
    from zoo.errors import ZooError as ZooError
    from zoo.examine.arrangement import Check as Check
    from zoo.examine.diff import Diff as Diff
    from zoo.formats.base import Checkpoint as Checkpoint
    from zoo.formats.base import Format as Format
    from zoo.formats.registry import get_format as get_format
    from zoo.formats.registry import list_formats as list_formats
    from zoo.generation.options import GenerationOptions as GenerationOptions
    from zoo.generation.row import Token as Token
    from zoo.models.gpt2.config import GPTConfig as GPTConfig
    from zoo.models.gpt2.init import create as create
    from zoo.models.gpt2.kv_cache import KVCache as KVCache
    from zoo.models.gpt2.model import GPTModel as GPTModel
    from zoo.models.registry import get_config as get_config
    from zoo.models.registry import list_models as list_models
    from zoo.models.registry import register as register
    from zoo.text.tokenizer import Tokenizer as Tokenizer


def __getattr__(name: str) -> Any:
    if name == "train":  # the package of that name
        return import_module("zoo.train")
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
