"""The list of accepted skips, in runs of pytest of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SUITE = """
import pytest, skips
from skips import ListedSkips

class Outer:
    def pytest_configure(self, config):
        config.pluginmanager.register(ListedSkips("peers", "any | t*.py | no * here\\nreadme | * | *"))

sys_exit = pytest.main(["-q", "-p", "no:cacheprovider", "test_it.py"], plugins=[Outer()])
raise SystemExit(int(sys_exit))
"""


@pytest.mark.parametrize(
    ("reason", "where", "code"), [("no wheel here", "test", 0), ("no time", "test", 1), ("no time", "module", 1)]
)
def test_only_listed_skips_pass(tmp_path, reason, where, code):
    """A skip that a line for this environment matches passes; any other fails the run and is named."""
    options = ", allow_module_level=True" if where == "module" else ""
    body = f"pytest.skip({reason!r}{options})"
    test = f"def test_skipped():\n    {body}\n" if where == "test" else f"{body}\n"
    (tmp_path / "test_it.py").write_text(f"import pytest\ndef test_passes(): pass\n{test}")
    (tmp_path / "test_other.py").write_text("def test_passes(): pass\n")
    script = SUITE.replace('"test_it.py"', '"test_it.py", "test_other.py"')
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(TESTS)}, capture_output=True, text=True
    )

    assert code == done.returncode, done.stdout + done.stderr
    assert bool(code) == ("SKIPPED BUT NOT LISTED in skips.txt: test_it.py: no time" in done.stdout)
