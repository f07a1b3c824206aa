import inspect
import pkgutil
import re

import pytest

import zoo
from zoo import errors

API = [
    "Checkpoint",
    "Format",
    "GPTConfig",
    "GPTModel",
    "KVCache",
    "Report",
    "Token",
    "Tokenizer",
    "ZooError",
    "complete",
    "content_hash",
    "convert",
    "create",
    "diff",
    "generate",
    "get_config",
    "get_format",
    "list_formats",
    "list_models",
    "load",
    "make_plan",
    "open_checkpoint",
    "register",
    "save",
    "verify",
]


def test_the_public_names_are_these():
    """zoo.__all__ changes on purpose only."""
    assert sorted(API) == sorted(name for name in zoo.__all__ if name != "__version__")


@pytest.mark.parametrize("name", API)
def test_every_public_name_is_there_and_documented(name):
    """Each has a docstring; functions document arguments and errors where they have some."""
    found = getattr(zoo, name)

    assert found.__doc__
    assert name in dir(zoo)
    if inspect.isfunction(found):
        assert re.search("Raises:|errors are those of", found.__doc__) or name in ("list_models", "list_formats")


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
