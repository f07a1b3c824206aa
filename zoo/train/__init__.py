"""Training: pieces to compose, and the loop and the runs that `zoo train` makes of them. See docs/training.md.

Each name is imported on first use: `from zoo.train import Trainer`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "BOOK": "zoo.train.settings",
    "TrainConfig": "zoo.train.settings",
    "Sources": "zoo.train.data.corpus",
    "encode_documents": "zoo.train.data.tokens",
    "open_tokens": "zoo.train.data.tokens",
    "write_tokens": "zoo.train.data.tokens",
    "Batches": "zoo.train.data.windows",
    "Windows": "zoo.train.data.windows",
    "Start": "zoo.train.run.first_model",
    "Run": "zoo.train.run.start",
    "settle": "zoo.train.run.start",
    "Trainer": "zoo.train.run.trainer",
    "Watcher": "zoo.train.run.watcher",
    "World": "zoo.train.step.distributed",
    "world": "zoo.train.step.distributed",
    "Evaluation": "zoo.train.step.evaluation",
    "cover": "zoo.train.step.evaluation",
    "evaluate": "zoo.train.step.evaluation",
    "evaluate_texts": "zoo.train.step.evaluation",
    "LoRA": "zoo.train.step.lora",
    "add_lora": "zoo.train.step.lora",
    "load_adapter": "zoo.train.step.lora",
    "merge_lora": "zoo.train.step.lora",
    "save_adapter": "zoo.train.step.lora",
    "LanguageModelLoss": "zoo.train.step.loss",
    "make_optimizer": "zoo.train.step.optimization",
    "split": "zoo.train.step.optimization",
    "train_step": "zoo.train.step.optimization",
    "Schedule": "zoo.train.step.schedule",
}
"""Public name -> module that has it."""

__all__ = [*_HOME]  # noqa: PLE0604 - all strings

if TYPE_CHECKING:
    from zoo.train.data.corpus import Sources as Sources
    from zoo.train.data.tokens import encode_documents as encode_documents
    from zoo.train.data.tokens import open_tokens as open_tokens
    from zoo.train.data.tokens import write_tokens as write_tokens
    from zoo.train.data.windows import Batches as Batches
    from zoo.train.data.windows import Windows as Windows
    from zoo.train.run.first_model import Start as Start
    from zoo.train.run.start import Run as Run
    from zoo.train.run.start import settle as settle
    from zoo.train.run.trainer import Trainer as Trainer
    from zoo.train.run.watcher import Watcher as Watcher
    from zoo.train.settings import BOOK as BOOK
    from zoo.train.settings import TrainConfig as TrainConfig
    from zoo.train.step.distributed import World as World
    from zoo.train.step.distributed import world as world
    from zoo.train.step.evaluation import Evaluation as Evaluation
    from zoo.train.step.evaluation import cover as cover
    from zoo.train.step.evaluation import evaluate as evaluate
    from zoo.train.step.evaluation import evaluate_texts as evaluate_texts
    from zoo.train.step.lora import LoRA as LoRA
    from zoo.train.step.lora import add_lora as add_lora
    from zoo.train.step.lora import load_adapter as load_adapter
    from zoo.train.step.lora import merge_lora as merge_lora
    from zoo.train.step.lora import save_adapter as save_adapter
    from zoo.train.step.loss import LanguageModelLoss as LanguageModelLoss
    from zoo.train.step.optimization import make_optimizer as make_optimizer
    from zoo.train.step.optimization import split as split
    from zoo.train.step.optimization import train_step as train_step
    from zoo.train.step.schedule import Schedule as Schedule


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo.train' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
