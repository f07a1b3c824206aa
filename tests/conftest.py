"""What every test runs under: one thread, so that tests do not fight for the two cores they may have."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _global_state_untouched(request: pytest.FixtureRequest) -> object:
    """The library leaves torch's default dtype and global generator as they are, whatever a test calls."""
    dtype, seed = torch.get_default_dtype(), torch.initial_seed()
    yield
    assert (torch.get_default_dtype(), torch.initial_seed()) == (dtype, seed)
