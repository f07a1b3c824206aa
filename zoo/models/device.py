"""Turn the name of a torch device into the device."""

from __future__ import annotations

import torch

from zoo.errors import OptionError


def find_device(name: str | torch.device) -> torch.device:
    """Return a device of this machine.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps"..., or "auto" for the GPU if there is one, else the CPU.

    Raises:
        OptionError: there is no such kind of device, or this machine has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(
            f"{str(name)[:50]!r} is not available on this machine; use cpu or auto", option="device"
        ) from error
    return device
