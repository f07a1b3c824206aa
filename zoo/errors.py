"""All errors that zoo raises on purpose.

    ZooError                       base class of all others
      UnknownName (LookupError)    no such model, format, dtype...; .name, .close
      ConfigError (ValueError)     a config field is invalid, or two fields contradict each other
      OptionError (ValueError)     an argument is out of range
      MissingWeights (LookupError) the model is known, but its weights are not on this machine
      DownloadError (OSError)      a download failed, or the downloaded file is wrong
      MissingPackage (ImportError) an optional package is required
      FormatError (ValueError)     a file is not in the expected format; .path
        CorruptFile                checksums, lengths or offsets contradict each other
        UnsafeFile                 reading it would run code or leave its directory
        CheckpointMismatch         names, shapes or dtypes differ; .problems has all of them
      CannotHold (ValueError)      the target format cannot represent this config
      VerificationFailed           the written file differs from its source
      OutputError (OSError)        the output cannot be written
      TrainingError                training cannot continue

Each message is one sentence of what was wrong, with which file or tensor, and what to do. Options are spelled as in
Python (force=True, dtype=NAME); the command line shows them as its user types them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class ZooError(Exception):
    """Base class of all errors that zoo raises on purpose."""


class UnknownName(ZooError, LookupError):
    """A name is not registered.

    Attributes:
        name: The requested name.
        close: Similar registered names, best first.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = list(known)
        self.name = name
        self.close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        suggestion = f"did you mean {' or '.join(self.close)}?" if self.close else f"known: {', '.join(known)}."
        super().__init__(" ".join(filter(None, (f"unknown {kind} {name!r}: {suggestion}", hint))))


class ConfigError(ZooError, ValueError):
    """A config field is invalid, or two fields contradict each other."""


class OptionError(ZooError, ValueError):
    """An argument is out of range.

    Attributes:
        option: the argument's name, "" where several are meant.
        problem: what is wrong with it, as the rest of a sentence that begins with its name.
    """

    def __init__(self, problem: str, *, option: str = "") -> None:
        self.option, self.problem = option, problem
        super().__init__(f"{option} {problem}" if option else problem)


class MissingWeights(ZooError, LookupError):
    """The model is known, but its weights are not on this machine."""


class DownloadError(ZooError, OSError):
    """A download failed, or the downloaded file is wrong. Bytes downloaded so far are kept."""


class MissingPackage(ZooError, ImportError):
    """An optional package is required; the message says which extra installs it."""


class FormatError(ZooError, ValueError):
    """A file is not in the expected format.

    Attributes:
        path: The file or directory.
    """

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        super().__init__(f"{path}: {problem}")


class CorruptFile(FormatError):
    """Checksums, lengths or offsets inside a file contradict each other."""


class UnsafeFile(FormatError):
    """Reading the file would run code in it or open files outside its directory."""


class CheckpointMismatch(FormatError):
    """Names, shapes or dtypes differ from what the config and the format require.

    Attributes:
        problems: All differences, one sentence each; the message has the first ten.
    """

    def __init__(self, path: Path | str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        shown = "; ".join(self.problems[:10])
        rest = len(self.problems) - 10
        super().__init__(path, shown + (f"; and {rest} more" if rest > 0 else ""))


class CannotHold(ZooError, ValueError):
    """The target format cannot represent this config."""


class VerificationFailed(ZooError):
    """The written output differs from its source."""


class OutputError(ZooError, OSError):
    """The output cannot be written. An existing file is unchanged."""


class TrainingError(ZooError):
    """Training cannot continue, for example because the loss is not finite. Saved checkpoints are unchanged."""
