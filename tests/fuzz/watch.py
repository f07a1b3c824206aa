"""What must hold whatever the input: the oracle of fuzzing.

Reading a hostile checkpoint, loading all its tensors, building its tokenizer, converting and inspecting it either works
or raises a ZooError; it takes less than a second of processor time and no more memory than four times its files and
64 MB; no file elsewhere is opened, nothing is imported, executed or started.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases import READERS, SIZE, Case, Folder, entry, seeds

SECONDS = 3.0
EXTRA_BYTES = 64 << 20

_FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
)
_FORBIDDEN += ("subprocess.Popen", "socket.", "ctypes.", "pickle.find_class", "marshal.loads", "code.__new__", "pty.")
_ALWAYS_OPEN = ("/proc/self/status", "/proc/self/clear_refs", "/dev/null")


class Broken(Exception):
    """A promise that an input broke.

    Attributes:
        where: what tells one bug from another.
    """

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(what)
        self.where = where or what.split(":")[0]


@dataclass
class Outcome:
    """How reading went.

    Attributes:
        accepted: whether the whole checkpoint could be read.
        seconds: of processor time.
        nbytes: of memory, at the peak above the start.
    """

    accepted: bool
    seconds: float
    nbytes: int


class Watch:
    """Reads cases and looks at what that does. One for a process: an audit hook stays for ever.

    Args:
        work: an empty directory, in which the cases lie and the outputs are written.
    """

    def __init__(self, work: Path) -> None:
        self.work = work.resolve()
        self.out = self.work / "out"
        self.out.mkdir(parents=True)
        self.folder = Folder(self.work / "case" / "inner")
        self.folder.path.mkdir(parents=True)
        self._watching = False
        self._may_open_others = False
        self._events: list[str] = []
        self._known_files: set[str] = set()
        sys.addaudithook(self._audit)

    def warm_up(self, reader: str) -> dict[str, str]:
        """Read every valid checkpoint, so that what is imported lazily is; return the format of each."""
        import zoo.formats.unknown  # noqa: F401  # imported when no format is recognised

        formats = {}
        for name, case in seeds(reader).items():
            self.folder.hold(case)
            path = entry(reader, self.folder.path, case)
            from zoo.formats.registry import detect_format

            formats[name] = detect_format(path).name
            for _ in range(2):
                _read(reader, path, formats[name], self.out)
        for encoding in ("cp437", "latin-1", "unicode-escape", "raw-unicode-escape"):
            "".encode(encoding)
        return formats

    def check(self, reader: str, case: Case, format: str, *, deep: bool, detect: bool = True) -> Outcome:
        """Read a case.

        Args:
            reader: whose case it is.
            case: the files.
            format: as which the checkpoint is opened.
            detect: whether its format is looked for first, for which every reader that may be meant opens it.
            deep: whether it is also converted, inspected and made a model of, which takes some milliseconds.

        Raises:
            Broken: a promise does not hold.
        """
        self.folder.hold(case)
        path = entry(reader, self.folder.path, case)
        self._may_open_others = READERS[reader].opens_others
        size = sum(len(content) for content in case.values() if isinstance(content, bytes))
        start, before = time.process_time(), _reset_peak()
        with self._watched():
            accepted = _read(reader, path, format, self.out if deep else None, detect=detect)
        seconds, nbytes = time.process_time() - start, _peak() - before
        if self._events:
            raise Broken(self._events[0], self._events[0].split(":")[0])
        if seconds > SECONDS:
            raise Broken(f"slow: {seconds:.1f} s")
        if nbytes > 4 * size + EXTRA_BYTES:
            raise Broken(f"memory: {nbytes:,} bytes for {size:,}")
        return Outcome(accepted, seconds, nbytes)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._events, self._watching = [], True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                yield
        except Broken:
            raise
        except Exception as error:
            raise Broken(f"{type(error).__name__}: {error}", _where(error)) from error
        finally:
            self._watching = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "subprocess.Popen" and "hdf5/worker.py" in str(arguments[1]):
            return  # the last file has killed it
        if event.startswith(_FORBIDDEN):
            self._events.append(f"{event}: {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            name = os.fsdecode(arguments[0])
            if name in _ALWAYS_OPEN or name.endswith("/zoo/data/gpt2-merges.bin"):
                return
            real = os.path.realpath(name)
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(arguments[2], int) else 0
            is_output = f"{real}/".startswith(f"{self.out}/")
            inside = is_output or (real.startswith(f"{self.folder.path}/") and not writes)
            if not inside and (writes or not self._may_open_others):
                self._events.append(f"open: {name} is {real}")


def _read(reader: str, path: Path, format: str, out: Path | None, *, detect: bool = True) -> bool:
    """Do with a checkpoint what zoo's commands do; return whether it is good."""
    from zoo.errors import ZooError
    from zoo.formats.opening import check_redundant, open_path
    from zoo.formats.registry import detect_format
    from zoo.text.tokenizer import Tokenizer

    if detect:
        with suppress(ZooError):
            detect_format(path)
    try:
        size = SIZE if READERS[reader].needs_size else None
        found, checkpoint = open_path(path, format=format, size=size)
    except ZooError:
        return False
    good = True
    for name, tensor in checkpoint.tensors.items():
        try:
            array = tensor.load()
        except ZooError:
            good = False
            continue
        if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
            raise Broken(f"tensor {name} is {array.dtype} {array.shape}, not {tensor.dtype} {tensor.shape}", "shape")
    with suppress(ZooError):  # a vocabulary may be damaged or lack tokens; the weights are good all the same
        tokenizer = Tokenizer(checkpoint.vocabulary)
        tokenizer.decode(tokenizer.encode("ab aab <|endoftext|> \x1c\u0100 <pad>"))
    try:
        ours, drops = found.to_ours(checkpoint)
        check_redundant(checkpoint, drops)
        del ours
    except ZooError:
        good = False
    if out:
        _use(path, format, size, out)
    return good


def _use(path: Path, format: str, size: Any, out: Path) -> None:
    """Convert, inspect and load."""
    from click.testing import CliRunner

    import zoo
    from zoo.cli.main import main
    from zoo.errors import ZooError

    with suppress(ZooError):
        zoo.convert(path, out / "m.safetensors", format=format, size=size, force=True)
    for arguments in ((), ("--stats", "--json")):
        result = CliRunner().invoke(main, ["inspect", str(path), "--from", format, *arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
    with suppress(ZooError):
        zoo.load(path, format=format, size=size)


def _where(error: BaseException) -> str:
    """The type of an error and the innermost line of zoo that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/converters/" in f.filename or "/zoo/" in f.filename or "/cli/" in f.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno} {last.name}"


def _reset_peak() -> int:
    """Let the system forget the peak of memory, and return what is in use now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS:")


def _peak() -> int:
    return _status("VmHWM:")


def _status(key: str) -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0
