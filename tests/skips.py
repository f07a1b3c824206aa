"""A pytest plugin for .ci/run: only the skips that tests/skips.txt lists for an environment are accepted."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

LIST = Path(__file__).with_suffix(".txt")


def listed(environment, text):
    """Return the (path pattern, reason pattern) of each line for an environment; `any` is for all of them."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = [[part.strip() for part in line.split("|")] for line in lines]
    return [(path, reason) for name, path, reason in rows if name in (environment, "any")]


class ListedSkips:
    """Collects the skips of a run, and fails it if one of them is not listed."""

    def __init__(self, environment, text):
        self.listed = listed(environment, text)
        self.others = set()

    def see(self, report):
        """Keep a skip that no line matches."""
        if report.skipped and not hasattr(report, "wasxfail"):
            path, reason = report.nodeid.split("::")[0], report.longrepr[2].removeprefix("Skipped: ")
            if not any(fnmatchcase(path, a) and fnmatchcase(reason, b) for a, b in self.listed):
                self.others.add(f"{path}: {reason}")

    pytest_runtest_logreport = pytest_collectreport = see

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        """Fail, unless the run has failed already."""
        if self.others and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        """Name the skips that are not listed."""
        for line in sorted(self.others):
            terminalreporter.write_line(f"SKIPPED BUT NOT LISTED in {LIST.name}: {line}", red=True)
