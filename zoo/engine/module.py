"""An engine over the memory of a torch module: no copy of the weights, and no stale ones."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.engine.backend import Engine
from zoo.engine.handle import is_built
from zoo.engine.weights import Pointers

if TYPE_CHECKING:
    from zoo.models.gpt2.model import GPTModel

_DTYPES = ("torch.float32", "torch.bfloat16", "torch.float16")
_METHODS = {"forward", "hidden", "logits", "__call__"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_lock = threading.Lock()
_engines: weakref.WeakKeyDictionary[GPTModel, tuple[Any, list[int], Engine]] = weakref.WeakKeyDictionary()


def reason_against(model: GPTModel) -> str | None:
    """Return why the engine cannot compute what a module does; None if it can."""
    import torch

    from zoo.models.gpt2 import model as ours

    known = (
        ours.GPTModel, ours.Block, ours.Attention, ours.MLP, ours.Linear, ours.Embedding, ours.LayerNorm,
        ours.Dropout, torch.nn.Dropout, torch.nn.ModuleList,
    )  # fmt: skip
    if not is_built():
        return "the native engine was not built here"
    for name, module in model.named_modules():
        if type(module) not in known or _METHODS & vars(module).keys():
            return f"{name or 'the model'} is a {type(module).__name__} that computes something of its own"
        if any(getattr(module, hooks) for hooks in _HOOKS):
            return f"{name or 'the model'} has forward hooks"
    parameters = dict(model.named_parameters())
    if parameters.keys() != model.config.parameter_shapes().keys():
        return "its parameters are not those of its config"
    if len(dtypes := {str(each.dtype) for each in parameters.values()}) > 1 or not dtypes <= {*_DTYPES}:
        return f"its weights are {' and '.join(sorted(dtypes))}; the engine takes one of {', '.join(_DTYPES)}"
    for name, each in parameters.items():
        if type(each) is not torch.nn.Parameter or each.device.type != "cpu" or not each.is_contiguous():
            return f"{name} is not a contiguous tensor in the CPU's memory"
    return None


def engine_over(model: GPTModel) -> Engine:
    """Return the engine of a module that reason_against has nothing against, over the weights that it has now.

    It is made once for each module, shares its memory, and is deleted with it.

    Raises:
        OptionError: a parameter has another shape than the config says.
    """
    weights = {name: _array(each) for name, each in model.named_parameters()}
    kind = model.config, {each.dtype for each in weights.values()}
    places = [each.ctypes.data for each in weights.values()]
    with _lock:
        known_kind, known_places, engine = _engines.get(model, (None, [], None))
        if engine is None or known_kind != kind:
            engine = Engine(model.config, weights)
        elif known_places != places:
            engine._handle.restart(Pointers(model.config, weights))
        else:
            with engine._handle.lock:
                engine._handle.weights.refresh()
        engine.tokenizer, engine._files = model.tokenizer, model.mapped_files
        _engines[model] = kind, places, engine
    return engine


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    from zoo.models.arrays import to_numpy

    return to_numpy(tensor)
