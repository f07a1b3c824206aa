"""From a name or a file to a model, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoo.config import GPTConfig
from zoo.conversion import check_redundant, format_of_suffix
from zoo.errors import CannotHold, OptionError
from zoo.format import Checkpoint, WriteOptions
from zoo.mapping import to_theirs
from zoo.model import GPTModel
from zoo.output import atomic_output
from zoo.plan import open_checkpoint, usual_vocabulary
from zoo.plugins import get_format
from zoo.tensors import DTYPES, Array, LazyTensor, get_dtype
from zoo.tokenizer import Tokenizer


def load(
    source: str | Path,
    *,
    format: str | None = None,
    size: str | GPTConfig | None = None,
    dtype: str | None = None,
    device: torch.device | str = "cpu",
) -> GPTModel:
    """Load a model, in evaluation mode, with its tokenizer.

    A zoo file is mapped, not read: weights come from the disk when they are used, and copies share the memory. Changing
    them, by training say, changes neither the file nor what others see.

    Args:
        source: path of a checkpoint in any format, or a registered name: "stories" comes with the package.
        format: name of the format; None recognises it by its content.
        size: the model it must be, by name or config.
        dtype: to cast to, such as "bfloat16"; None keeps the file's, float32 where it has several.
        device: to put the weights on.

    Raises:
        MissingWeights: source is a registered name whose weights are not on this machine.
        UnknownName: there is no such file, and no such model either.
        ZooError: the checkpoint is damaged, or not what format and size say.
    """
    found, checkpoint = open_checkpoint(source, format=format, size=size)
    ours, drops = found.to_ours(checkpoint)
    check_redundant(checkpoint, drops)
    with torch.device("meta"):
        model = GPTModel(checkpoint.config, Tokenizer(checkpoint.vocabulary))
    cast = get_dtype(dtype) if dtype else _common_dtype({tensor.dtype for tensor in ours.values()})
    for name, tensor in ours.items():
        module, _, leaf = name.rpartition(".")
        value = to_torch(tensor.astype(cast).load()).to(device)
        # Names and shapes are checked already; load_state_dict would check them again, for half of the loading time.
        setattr(model.get_submodule(module), leaf, nn.Parameter(value))
    return model.eval()


def save(model: GPTModel, out: str | Path, *, to: str | None = None, force: bool = False) -> None:
    """Write a model in any format; the output appears only when it is whole.

    Args:
        model: to write.
        out: file or directory.
        to: the format; None takes the one that out's suffix means.
        force: whether an existing output may be replaced.

    Raises:
        OptionError: out's suffix means no format, and none is given; or the model has LoRA adapters.
        CannotHold: the format has no place for this model.
        OutputError: out exists or cannot be written.
    """
    out = Path(out)
    target = get_format(to or format_of_suffix(out))
    if reasons := target.cannot_hold(model.config):
        raise CannotHold(f"the format {target.name} cannot hold this model: {'; '.join(reasons)}")
    state = model.state_dict()
    if any("lora_" in name for name in state):
        hint = "merge them with zoo.train.lora.merge_lora, or save them alone with zoo.train.lora.save_adapter"
        raise OptionError(f"the model has LoRA adapters, which {target.name} has no place for; {hint}")
    ours = {name: LazyTensor.of(to_numpy(state[name])) for name in model.config.parameter_shapes()}
    checkpoint = Checkpoint(
        Path(),
        model.config,
        to_theirs(target.table, ours, model.config),
        vocabulary=model.tokenizer.vocabulary or usual_vocabulary(model.config),
    )
    needed = sum(target.nbytes(name, tensor, "") for name, tensor in checkpoint.tensors.items())
    with atomic_output(out, needed=needed, force=force) as temporary:
        target.write(temporary, checkpoint, WriteOptions())


def _common_dtype(dtypes: set[np.dtype[np.generic]]) -> np.dtype[np.generic]:
    """Return the one dtype there is, or float32 (float64, if there is any) for several: a model computes in one."""
    return dtypes.pop() if len(dtypes) == 1 else max({DTYPES["float32"], *dtypes}, key=lambda dtype: dtype.itemsize)


def to_torch(array: Array) -> Tensor:
    """Return a tensor that shares the array's memory where that can be written to and is aligned, a copy elsewhere."""
    array = np.require(array, requirements=["C", "W", "A"])
    if array.dtype == DTYPES["bfloat16"]:  # torch does not know numpy's bfloat16
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> Array:
    """Return the array of a tensor, sharing its memory where it is on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(DTYPES["bfloat16"])
    return tensor.numpy()
