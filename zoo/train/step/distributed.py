"""Training in several processes, started by torchrun, with torch.distributed.

Every process runs the same program on its share of the batch. Gradients are summed, not averaged: each process divides
the sum of its token losses by the number of tokens of all processes. The result is the one that a single process gets
for the complete batch, for any distribution of the tokens.
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
from zoo.models.device import find_device
from zoo.models.gpt2.model import Block, GPTModel

_SETTLE_SECONDS = 0.2


@dataclass(frozen=True)
class World:
    """The group of training processes, seen from one of them. Without arguments, a single process.

    Attributes:
        rank: Rank of this process, 0 to size - 1.
        size: Number of processes.
        device: Device that this process computes on.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wrap(self, module: nn.Module, *, fsdp: bool = False, compile: bool = False) -> nn.Module:
        """Make a module's backward pass exchange gradients. The parameters must be equal in all processes.

        Call the returned module itself, because forward hooks do the work, and let its forward return the loss: sharded
        parameters are gathered only inside forward.

        Args:
            module: A module that contains a GPTModel.
            fsdp: Whether to shard parameters, gradients and optimizer state (FSDP2) instead of replicating them (DDP).
            compile: Whether to compile the blocks with torch.compile. Each block is compiled separately: all are alike,
                so one compilation serves them all and parameters keep their names.

        Returns:
            The module to call. With fsdp it is the same module, whose parameters are now DTensors.
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
        # A lambda, because DDP compares a function's annotations with types, and annotations are strings here.
        wrapped.register_comm_hook(None, lambda _, bucket: _sum_gradients(bucket))
        return wrapped

    def sum(self, *values: float) -> tuple[float, ...]:
        """Sum numbers over all processes, in float64."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tuple(tensor.tolist())

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process, for decisions that all must take together."""
        return self.sum(float(flag))[0] > 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def _sum_gradients(bucket: torch._C._distributed_c10d.GradBucket) -> torch.futures.Future[Tensor]:
    """Sum gradients over all processes. DDP's own hook averages, but the loss is already divided by all tokens."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return cast("dist.Work", work).get_future().then(lambda future: future.value()[0])


def _fully_shard(module: nn.Module, mesh: Any) -> None:
    """Shard each block separately, so that only one is gathered at a time, then the rest of the model."""
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            # Gloo cannot scale a sum, and a plain sum is needed everywhere.
            part.set_force_sum_reduction_for_comms(True)


@contextmanager
def world(device: str | torch.device = "cpu") -> Iterator[World]:
    """Join the processes that torchrun started; without torchrun, yield a single process.

    Args:
        device: Kind of device to compute on: "cpu" (with gloo) or "cuda" (with nccl; each process takes its own
            device).

    Raises:
        OptionError: There are more processes on this machine than devices.
    """
    device = find_device(device)
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        yield World(device=device)
        return
    if device.type == "cuda":
        local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= count:
            raise OptionError(
                f"there are more processes than CUDA devices ({count}); start torchrun with fewer processes"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
        # After a collective is reported done, a thread of gloo still frees its tensors and needs Python's lock for it.
        # If Python exits first, the process aborts although all went well. So the thread gets some time.
        time.sleep(_SETTLE_SECONDS)


def exchange(module: nn.Module, *, on: bool) -> Any:
    """Return a context in which backward exchanges gradients (on) or only accumulates them (not on)."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(on)
    elif isinstance(module, DistributedDataParallel) and not on:
        return module.no_sync()
    return nullcontext()


def full_state(model: GPTModel) -> dict[str, Tensor]:
    """Return the complete parameters on the CPU by name in the main process, {} in others. All processes must call
    it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast("dict[str, Tensor]", get_model_state_dict(model, options=options))
