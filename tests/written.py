"""The formats that zoo writes, as the parameters of tests."""

from importlib.util import find_spec

import pytest

from zoo.formats.registry import list_formats

PACKAGES = {"ctranslate2": "ctranslate2", "keras-hub": "h5py", "onnx": "onnx"}
"""What a format needs before it can be written; of these only h5py comes with `.[test]`."""


def _marks(name):
    package = PACKAGES.get(name)
    if package is None:
        return []
    missing = pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")
    return [missing] if package == "h5py" else [missing, pytest.mark.peers]


WRITTEN = [pytest.param(each.name, marks=_marks(each.name)) for each in list_formats() if each.writes]
