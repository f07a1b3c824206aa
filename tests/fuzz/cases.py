"""What is fuzzed: the readers, the valid checkpoints that mutations begin with, and how a case gets onto the disk.

A case is one checkpoint as a dict of file names (with "/" for files in directories) and contents; a name may also be a
link. Every reader has a folder in corpus/, in which each folder is one checkpoint.
"""

from __future__ import annotations

import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from zoo.models.gpt2.config import GPTConfig

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
REGRESSIONS = HERE / "regressions"
GOLDEN = HERE.parent / "golden"

SIZE = GPTConfig(vocab_size=6, context_length=3, width=4, n_heads=2, n_layers=1)
"""Of every checkpoint in corpus/ but the quantised one. V 6, T 3, C 4, D 2, I 16."""


@dataclass(frozen=True)
class Link:
    """A symbolic link in a case."""

    target: str


@dataclass(frozen=True)
class Pipe:
    """A named pipe in a case: whoever opens it to read waits for ever."""


Content = bytes | Link | Pipe
Case = dict[str, Content]


@dataclass(frozen=True)
class Reader:
    """A container reader and what is read with it.

    Attributes:
        kind: of the bytes that are mutated, which says how; see mutate.py.
        files: endings of the names of files that are mutated; () for all.
        golden: folders of tests/golden that are seeds too.
        entry: what of the case is given to zoo: "" for its directory, "*" for its only file, else a name in it.
        needs_size: whether the format does not store its config.
        opens_others: whether it may open files elsewhere: an adapter names its base.
    """

    kind: str = "bytes"
    files: tuple[str, ...] = ()
    golden: tuple[str, ...] = ()
    entry: str = ""
    needs_size: bool = False
    opens_others: bool = False


READERS = {
    "tf": Reader("tf", (".index", ".data-00000-of-00001", "checkpoint", ".data-00000-of-00002")),
    "safetensors": Reader("safetensors", entry="*"),
    "quantised": Reader("safetensors", entry="*"),
    "shards": Reader("safetensors", (".safetensors", ".index.json")),
    "torch": Reader("zip", entry="*", needs_size=True),
    "legacy": Reader("bytes", entry="*", needs_size=True),
    "pickle": Reader("pickle", entry="*", needs_size=True),
    "gguf": Reader("gguf", entry="*"),
    "llmc": Reader("bytes", entry="*"),
    "hdf5": Reader("bytes", (".h5",), ("tf-h5",)),
    "flax": Reader("bytes", (".msgpack", ".index.json"), ("flax-untied",)),
    "json": Reader("text", (".json", ".txt", ".bpe")),
    "peft": Reader("safetensors", (".json", ".safetensors"), entry="adapter", opens_others=True),
    "sharded": Reader("bytes", (".json", ".distcp")),
}


def load_case(folder: Path) -> Case:
    """Read a checkpoint's files."""
    case: Case = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            case[name] = Link(str(path.readlink()))
        elif path.is_file() and path.suffix != ".npy":  # golden arrays, which do not belong to the checkpoint
            case[name] = path.read_bytes()
    return case


def seeds(reader: str) -> dict[str, Case]:
    """The valid checkpoints of a reader, by name."""
    source = "torch" if reader == "pickle" else reader
    folders = [*sorted((CORPUS / source).iterdir()), *(GOLDEN / name for name in READERS[reader].golden)]
    return {folder.name: load_case(folder) for folder in folders}


def regressions() -> dict[str, tuple[str, Case]]:
    """Inputs that once went wrong: reader and case by name."""
    folders = sorted(folder for reader in REGRESSIONS.iterdir() for folder in reader.iterdir())
    return {f"{folder.parent.name}-{folder.name}": (folder.parent.name, load_case(folder)) for folder in folders}


def entry(reader: str, folder: Path, case: Case) -> Path:
    """The path that is given to zoo."""
    name = READERS[reader].entry
    return folder / (next(iter(case)) if name == "*" else name)


class Folder:
    """A directory that holds one case after the other; only files that differ are written again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._case: Case = {}

    def hold(self, case: Case) -> None:
        """Make the files those of a case."""
        for name in [name for name, content in self._case.items() if case.get(name) != content]:
            (self.path / name).unlink()  # not overwritten: an array of the last case may still be mapped to it
        for name, content in case.items():
            if self._case.get(name) != content:
                write_file(self.path / name, content)
        self._case = dict(case)


def write_file(path: Path, content: Content) -> None:
    """Write one file of a case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Link):
        path.symlink_to(content.target)
    elif isinstance(content, Pipe):
        import os

        os.mkfifo(path)
    else:
        path.write_bytes(content)


def save_case(folder: Path, case: Case) -> None:
    """Write a case into a new directory."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    Folder(folder).hold(case)


def pack(case: Case) -> bytes:
    """A case as one string of bytes, which is what atheris mutates; links and pipes are left out."""
    files = [(name.encode(), content) for name, content in case.items() if isinstance(content, bytes)]
    return b"".join(struct.pack("<HI", len(name), len(content)) + name + content for name, content in files)


def unpack(data: bytes) -> Case:
    """A case out of what pack() made; {} if it is something else."""
    case: Case = {}
    while len(data) >= 6:
        n, size = struct.unpack_from("<HI", data)
        name, content, data = data[6 : 6 + n], data[6 + n : 6 + n + size], data[6 + n + size :]
        case[name.decode("ascii", "replace")] = content
    return case
