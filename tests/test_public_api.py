import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import zoo
import zoo.train
from zoo import errors

ROOT = Path(__file__).parents[1]

API = [
    "Check",
    "Checkpoint",
    "Diff",
    "Engine",
    "Format",
    "GPTConfig",
    "GPTModel",
    "GenerationOptions",
    "KVCache",
    "Plan",
    "Report",
    "Token",
    "Tokenizer",
    "ZooError",
    "complete",
    "complete_batch",
    "content_hash",
    "convert",
    "create",
    "diff",
    "generate",
    "generate_batch",
    "generate_many",
    "get_config",
    "get_format",
    "list_formats",
    "list_models",
    "load",
    "make_plan",
    "open_checkpoint",
    "open_engine",
    "push",
    "register",
    "save",
    "verify",
]


def test_the_public_names_are_these():
    """zoo.__all__ changes on purpose only."""
    assert sorted(API) == sorted(name for name in zoo.__all__ if name != "__version__")


@pytest.mark.parametrize("module", [zoo, zoo.train], ids=["zoo", "zoo.train"])
def test_every_public_name_is_there_and_documented(module):
    """Each name that __all__ lists can be had and is in dir(); functions describe their arguments."""
    for name in module.__all__:
        found = getattr(module, name)
        assert name in dir(module)
        if not inspect.isfunction(found):
            continue
        words = inspect.getdoc(found)
        arguments = [each for each in inspect.signature(found).parameters if each not in ("options", "name", "pattern")]
        if "Args:" not in words:
            assert len(arguments) <= 3 or "are those of" in words, name
            continue
        assert [] == [each for each in arguments if not re.search(rf"^    {each}: ", words, re.MULTILINE)], name


def test_docs_use_public_names_only():
    """What the pages import from zoo, or take from it with a dot, is public."""
    text = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/*.md") if page.name != "python-api.md")
    blocks = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    used = set(re.findall(r"\bzoo\.([a-zA-Z_]+)", re.sub(r"^(from|import) .*", "", blocks, flags=re.MULTILINE)))
    trained = re.findall(r"^from zoo\.train import \(?([^)\n]*|[^)]*)\)?$", blocks, re.MULTILINE)
    pieces = {name.strip() for group in trained for name in group.split(",") if name.strip()}

    assert len(used) > 5
    assert len(pieces) > 8
    assert set() == used - set(zoo.__all__) - {"train"}
    assert set() == pieces - set(zoo.train.__all__)


def test_importing_a_module_does_not_hide_a_public_name():
    """No module or folder of zoo has the name of something public, which importing it would replace."""
    modules = {module.name for module in pkgutil.iter_modules(zoo.__path__)}

    assert {"errors", "formats"} <= modules
    assert modules & set(API) == set()


def test_a_wrong_name_is_an_attribute_error():
    """Zoo has no other attributes, and says so as modules do."""
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'lod'"):
        _ = zoo.lod


def test_every_error_is_a_zoo_error_and_in_the_drawn_tree():
    """One class catches them all; the tree in the module's docstring has each with its parent's builtin."""
    found = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]

    assert len(found) > 10
    for error in found:
        assert issubclass(error, zoo.ZooError)
        assert f" {error.__name__}" in errors.__doc__
        assert error.__doc__
