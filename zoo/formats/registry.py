"""The registry of formats: the built-in ones and those of installed packages (entry-point group "zoo.converters").

A package adds a format by an entry point whose name is the format's and whose value is a Format class:

    [project.entry-points."zoo.converters"]
    myformat = "my_package.my_module:MyFormat"
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import zoo
from zoo.core.paths import follow, missing
from zoo.errors import FormatError, UnknownName, ZooError
from zoo.formats.base import Format

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "zoo.converters"

_BUILTIN = {
    "zoo": "zoo.converters.zoo_file:ZooFile",
    "openai": "zoo.converters.openai:OpenAI",
    "huggingface": "zoo.converters.huggingface:HuggingFace",
    "book": "zoo.converters.book:Book",
    "nanogpt": "zoo.converters.nanogpt:NanoGPT",
    "mingpt": "zoo.converters.mingpt:MinGPT",
    "mingpt-2020": "zoo.converters.mingpt_2020:MinGPT2020",
    "llm.c": "zoo.converters.llmc:LlmC",
    "gguf": "zoo.converters.gguf:GGUF",
    "megatron": "zoo.converters.megatron:Megatron",
    "keras-hub": "zoo.converters.keras_hub:KerasHub",
    "flax": "zoo.converters.flax:Flax",
    "tf-h5": "zoo.converters.tf_h5:TfH5",
    "peft": "zoo.converters.peft:Peft",
    "sharded": "zoo.converters.sharded:Sharded",
    "ctranslate2": "zoo.converters.ctranslate2:CTranslate2",
    "onnx": "zoo.converters.onnx:Onnx",
}


@dataclass(frozen=True)
class FormatInfo:
    """A row of `zoo formats`: name, summary, package and version of the package."""

    name: str
    summary: str
    suffixes: tuple[str, ...]
    is_directory: bool
    dtypes: tuple[str, ...]
    encodings: tuple[str, ...]
    reads: bool
    writes: bool
    origin: str
    version: str


_FACTS = ("summary", "suffixes", "is_directory", "dtypes", "encodings", "reads", "writes")


@lru_cache(maxsize=1)
def _third_party() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # a tenth of the start-up time of a conversion that needs none

    points = sorted(entry_points(group=GROUP))
    return {point.name: point for point in points if point.name not in _BUILTIN}


def format_names() -> list[str]:
    """Return the names of all formats, the built-in ones first."""
    return [*_BUILTIN, *_third_party()]


@cache
def get_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        UnknownName: There is no such format; the message suggests similar names.
        ZooError: The format belongs to a package that cannot be loaded.
    """
    if name in _BUILTIN:
        module, attribute = _BUILTIN[name].split(":")
        return getattr(import_module(module), attribute)()
    if name not in _third_party():
        raise UnknownName("format", name, format_names(), hint="`zoo formats` shows all formats.")
    point = _third_party()[name]
    try:
        made = point.load()()
    except Exception as error:  # a stranger's code: whatever goes wrong in it, say whose it is
        raise ZooError(f"the format {name!r} of package {_origin(point)[0]} cannot be loaded: {error}") from error
    if not isinstance(made, Format) or made.name != name:
        raise ZooError(f"the format {name!r} of package {_origin(point)[0]} is not a zoo.Format of this name")
    return made


def list_formats() -> list[FormatInfo]:
    """Describe every format that can be loaded."""
    infos = []
    for found in usable_formats():
        point = _third_party().get(found.name)
        origin, version = _origin(point) if point else ("zoo", zoo.__version__)
        facts = {field: getattr(found, field) for field in _FACTS}
        infos.append(FormatInfo(name=found.name, origin=origin, version=version, **facts))
    return infos


def usable_formats() -> Iterator[Format]:
    """Yield every format that can be loaded, the built-in ones first.

    A broken package does not affect other formats. Packages are searched only after the built-in formats.
    """
    yield from map(get_format, _BUILTIN)
    yield from (get_format(name) for name in _third_party() if name not in broken_formats())


@lru_cache(maxsize=1)
def broken_formats() -> dict[str, str]:
    """Return the reason for each format that cannot be loaded."""
    broken = {}
    for name in _third_party():
        try:
            get_format(name)
        except ZooError as error:
            broken[name] = str(error)
    return broken


def detect_format(path: Path) -> Format:
    """Return the format of a checkpoint, recognised by its content.

    Raises:
        FormatError: The path does not exist, or not exactly one format recognises it.
    """
    if not path.exists() and not path.with_name(f"{path.name}.index").is_file():  # TensorFlow's name of such files
        raise missing(path, "file or directory")
    path = follow(path)
    try:
        if (ours := get_format("zoo")).sniff(path):  # its mark is in no other format; most starts need no other reader
            return ours
        known = [each for each in usable_formats() if each.sniff(path)]
    except OSError as error:  # no right to read it, a broken disk
        raise FormatError(path, f"cannot be read ({error.strerror or error})") from error
    # Beside weights that zoo reads, people keep exports that it does not read.
    found = [each for each in known if each.reads] or known
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(each.name for each in found)
        raise FormatError(path, f"could be any of {names}; choose one with format=NAME")
    from zoo.formats.unknown import why_unknown

    raise FormatError(path, why_unknown(path, usable_formats()))


def _origin(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("an unknown package", "?")
