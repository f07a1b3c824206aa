"""Training in several processes, started by torchrun: all of it is torch.distributed, this is what zoo asks of it.

Every process runs the same program on its share of the batch. Gradients are summed, not averaged: the loss that each
process differentiates is its own sum over tokens divided by the tokens of all, so that the result is that of one
process with the whole batch, however the tokens are shared out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from zoo.errors import OptionError
from zoo.models.gpt2.model import Block, GPTModel

_SETTLE_SECONDS = 0.2


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them. Without arguments, one process alone.

    Attributes:
        rank: of this process, 0 to size - 1.
        size: number of processes.
        device: that this one computes on.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def wrap(self, module: nn.Module, *, fsdp: bool = False, compile: bool = False) -> nn.Module:
        """Make a module's backward exchange gradients; the same values must be in it in every process.

        Call the module itself, forward hooks do the work, and let its forward return the loss: parameters that are
        shared out are whole only inside it.

        Args:
            module: of which a GPTModel is a part.
            fsdp: whether to share out parameters, gradients and optimizer state (FSDP2) rather than copy them (DDP).
            compile: whether torch.compile shall make one kernel of many. Each block is compiled by itself: all are
                alike, so that one compilation serves them, and parameters keep their names.

        Returns:
            what to call; with fsdp the module itself, whose parameters are DTensors from now on.
        """
        if compile:
            for part in module.modules():
                if isinstance(part, Block):
                    part.compile()
        if fsdp:
            _fully_shard(module, init_device_mesh(self.device.type, (self.size,)))
            return module
        if self.size == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        wrapped = DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)
        # A lambda: DDP compares a function's annotations with the types, which here are strings.
        wrapped.register_comm_hook(None, lambda _, bucket: _sum_gradients(bucket))
        return wrapped

    def sum(self, *values: float) -> tuple[float, ...]:
        """Add numbers over all processes, in float64."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tuple(tensor.tolist())

    def any(self, flag: bool) -> bool:
        """Whether something is so in any process: all must stop together."""
        return self.sum(float(flag))[0] > 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()


def _sum_gradients(bucket: torch._C._distributed_c10d.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's own hook divides by the number of processes first; here the loss is divided by all tokens already."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return cast("dist.Work", work).get_future().then(lambda future: future.value()[0])


def _fully_shard(module: nn.Module, mesh: Any) -> None:
    """Share out each block by itself, so that one is whole at a time, then the rest."""
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            # Gloo has no sum with a factor, and needs none: a plain sum is what is wanted everywhere.
            part.set_force_sum_reduction_for_comms(True)


@contextmanager
def world(device: str | torch.device = "cpu") -> Iterator[World]:
    """Join the processes that torchrun started, or be alone where it did not.

    Args:
        device: kind of device to compute on: "cpu" (which gloo connects), "cuda" (nccl; each process takes its own).

    Raises:
        OptionError: there are more processes on this machine than devices.
    """
    device = torch.device(device)
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        yield World(device=device)
        return
    if device.type == "cuda":
        local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= count:
            raise OptionError(f"there are {count} CUDA devices for more processes; start torchrun with fewer")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
        # A thread of gloo frees the last collective's tensors after it is reported done, for which it needs Python's
        # lock. If Python ends first, the process aborts although all went well, so the thread is given time.
        time.sleep(_SETTLE_SECONDS)


def exchange(module: nn.Module, *, on: bool) -> Any:
    """A context in which backward exchanges gradients (the last of an accumulation) or only adds them up."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(on)
    elif isinstance(module, DistributedDataParallel) and not on:
        return module.no_sync()
    return nullcontext()


def full_state(model: GPTModel) -> dict[str, Tensor]:
    """Return the whole parameters on the CPU by name, in the main process; {} in the others. All must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast("dict[str, Tensor]", get_model_state_dict(model, options=options))
