"""The state of torch's AdamW that scripts save beside a state dict: which of its entries belongs to which tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.core.tensors import LazyTensor, Tensors
from zoo.formats.base import AdamState

_KEYS = ("optimizer_state_dict", "optimizer")
_MOMENTS = ("exp_avg", "exp_avg_sq")


def read_adam_state(beside: Mapping[str, Any], parameters: Tensors) -> AdamState | None:
    """Return AdamW's state by the names of the parameters, or None if there is none or the order is not certain.

    torch numbers parameters in the order in which the optimizer got them: one group in the model's order, as in the
    book; or nanoGPT's two, of which the first has the matrices and the second everything else.

    Args:
        beside: what the file has beside the model.
        parameters: the model's trained tensors, in its order.
    """
    optimizer: Mapping[str, Any] = next((beside[key] for key in _KEYS if isinstance(beside.get(key), Mapping)), {})
    groups, state = optimizer.get("param_groups"), optimizer.get("state")
    if not isinstance(groups, list) or not isinstance(state, Mapping) or not state:
        return None
    names = list(parameters)
    if len(groups) == 2:
        names.sort(key=lambda name: len(parameters[name].shape) < 2)
    numbers = [i for group in groups if isinstance(group, Mapping) for i in group.get("params", ())]
    if numbers != list(range(len(names))) or set(state) != set(numbers):
        return None
    entries = [state[i] for i in numbers]
    if not all(_fits(entry, parameters[name]) for entry, name in zip(entries, names, strict=True)):
        return None
    steps = {_count(entry.get("step")) for entry in entries}
    if len(steps) != 1 or not (step := steps.pop()):
        return None
    first, second = ({name: entry[kind] for name, entry in zip(names, entries, strict=True)} for kind in _MOMENTS)
    betas = groups[0].get("betas")
    if not isinstance(betas, tuple) or len(betas) != 2 or not all(isinstance(beta, float) for beta in betas):
        return None
    return AdamState(step, first, second, (betas[0], betas[1]))


def _fits(entry: Any, parameter: LazyTensor) -> bool:
    if not isinstance(entry, Mapping):
        return False
    moments = [entry.get(kind) for kind in _MOMENTS]
    return all(isinstance(moment, LazyTensor) and moment.shape == parameter.shape for moment in moments)


def _count(step: Any) -> int:
    """Return the number of steps, which torch saves as a tensor; 0 if it is not one."""
    if isinstance(step, LazyTensor) and step.size == 1:
        step = float(step.load().reshape(()))
    return int(step) if isinstance(step, int | float) and 0 < step < 1e9 else 0
