"""What every test runs under: one thread, so that tests do not fight for the two cores they may have."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch
from cases import counts
from hypothesis import settings
from skips import LIST, ListedSkips

# No deadline: busy machines are normal. Derandomised, so that a red run can be repeated; `--hypothesis-seed` explores.
settings.register_profile("zoo", deadline=None, derandomize=True)
settings.load_profile("zoo")
torch.set_num_threads(1)

# Nothing leaves this machine, and nobody's cache or settings are used; tests of downloads say otherwise for themselves.
os.environ["ZOO_OFFLINE"] = "1"
os.environ["ZOO_CACHE"] = tempfile.mkdtemp(prefix="zoo-test-cache-")
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="zoo-test-config-")
os.environ.pop("ZOO_MODEL", None)
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of .ci/run that makes unlisted skips a failure."""
    parser.addoption("--listed-skips", metavar="ENVIRONMENT", help=f"fail on skips that {LIST.name} does not list")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the skips, if asked to."""
    if environment := config.getoption("--listed-skips"):
        config.pluginmanager.register(ListedSkips(environment, LIST.read_text()))


@pytest.fixture(autouse=True)
def _global_state_untouched(request: pytest.FixtureRequest) -> object:
    """The library leaves torch's default dtype and global generator as they are, whatever a test calls."""
    dtype, seed = torch.get_default_dtype(), torch.initial_seed()
    yield
    assert (torch.get_default_dtype(), torch.initial_seed()) == (dtype, seed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases of faults there were."""
    for what, number in sorted(counts.items()):
        terminalreporter.write_line(f"{number} {what}")
