import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from written import WRITTEN

import zoo
import zoo.formats.registry
from zoo.errors import FormatError, UnknownName, ZooError
from zoo.formats.registry import detect_format, format_names, get_format, list_formats

EXAMPLE = Path(__file__).parents[1] / "plugin"
# What every format can hold, 64 channels a head for OpenAI's among them.
ANYWHERE = zoo.GPTConfig(vocab_size=96, context_length=23, width=64, n_heads=1, n_layers=2)


@pytest.fixture
def fresh():
    """Forget which plugins there are, before and after."""
    caches = (zoo.formats.registry._third_party, zoo.formats.registry.get_format, zoo.formats.registry.broken_formats)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def pretend(monkeypatch, **points):
    made = [EntryPoint(name, value, "zoo.converters") for name, value in points.items()]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: made)


@pytest.fixture(scope="session")
def installed_example(tmp_path_factory):
    """A directory into which pip installed the example package, as users install theirs."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, EXAMPLE]
    done = subprocess.run(command, capture_output=True, text=True)
    if "setuptools" in done.stderr and done.returncode:
        pytest.skip("pip cannot build a package here (no network for its build requirements)")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return target


def test_an_installed_package_adds_its_format(installed_example, tmp_path):
    """After pip install the format is listed, recognised, and converted to and from like a built-in one."""
    program = f"""
import sys; sys.path.insert(0, {str(installed_example)!r})
import zoo
info = zoo.list_formats()[-1]
assert (info.name, info.origin, info.version) == ("npz", "zoo-example", "1.2.3"), info
model = zoo.create(zoo.GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=2, tied=False))
zoo.save(model, "a.npz")
report = zoo.convert("a.npz", "b.safetensors")
assert (report.source_format, report.verified) == ("npz", True)
zoo.convert("b.safetensors", "c.npz")
assert open("a.npz", "rb").read() == open("c.npz", "rb").read()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_built_in_formats_come_first_and_cannot_be_replaced(fresh, monkeypatch):
    """A package cannot take over a built-in name."""
    pretend(monkeypatch, zoo="evil:Format")

    assert format_names()[0] == "zoo"
    assert format_names().count("zoo") == 1
    assert type(get_format("zoo")).__module__ == "zoo.converters.zoo_file"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_module:X", "the format 'mine' of package an unknown package cannot be loaded: No module named"),
        ("pathlib:Path", "is not a zoo.Format of this name"),
    ],
)
def test_a_broken_plugin_says_whose_it_is(fresh, monkeypatch, value, words):
    """A format that cannot be loaded is an error that names it when it is asked for."""
    pretend(monkeypatch, mine=value)
    with pytest.raises(ZooError, match=words):
        get_format("mine")


def test_a_broken_plugin_does_not_break_the_others(fresh, monkeypatch, tmp_path):
    """Recognising a file and listing formats go on without a plugin that cannot be loaded."""
    pretend(monkeypatch, mine="no_such_module:X")
    zoo.save(zoo.create(zoo.GPTConfig(vocab_size=97, width=30, n_heads=5, n_layers=1)), tmp_path / "m.safetensors")

    assert detect_format(tmp_path / "m.safetensors").name == "zoo"
    assert list(zoo.formats.registry.broken_formats()) == ["mine"]
    assert "mine" not in [info.name for info in list_formats()]


def test_every_format_describes_itself():
    """Each built-in format has a summary of one line and the package's version."""
    for info in list_formats():
        assert info.summary
        assert "\n" not in info.summary
        assert (zoo.__version__, "zoo") == (info.version, info.origin)


def test_a_wrong_name_offers_the_nearest():
    """A misspelt format is answered with the right one."""
    with pytest.raises(UnknownName, match="did you mean openai"):
        get_format("opnai")


@pytest.mark.parametrize("name", WRITTEN)
def test_exactly_one_format_knows_each_file(tmp_path, name):
    """What one format writes no other takes for its own."""
    info = next(each for each in list_formats() if each.name == name)
    path = tmp_path / f"{name}{'' if info.is_directory else (*info.suffixes, '')[0]}"
    zoo.save(zoo.create(ANYWHERE), path, to=name)

    assert name == detect_format(path).name


def test_nothing_at_the_path_is_an_error(tmp_path):
    """A path that does not exist is named."""
    with pytest.raises(FormatError, match="there is no such file or directory"):
        detect_format(tmp_path / "nothing")
