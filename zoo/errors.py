"""Every error zoo raises on purpose.

    ZooError                       the one class a caller must know
      UnknownName (LookupError)    no such model, format, dtype...; .name, .close
      ConfigError (ValueError)     a config field is wrong or two of them disagree
      OptionError (ValueError)     an argument of a call is out of its range
      MissingWeights (LookupError) the model is known, its weights are not on this machine
      DownloadError (OSError)      a file could not be fetched, or what came is not the right one
      MissingPackage (ImportError) an optional package is needed for this
      FormatError (ValueError)     a file is not what it says it is; .path
        CorruptFile                checksums, lengths or offsets contradict each other
        UnsafeFile                 reading it would run code or leave its directory
        CheckpointMismatch         names, shapes or dtypes differ; .problems has all of them
      CannotHold (ValueError)      the target format has no place for this config
      VerificationFailed           the written file does not read back as what was meant
      OutputError (OSError)        the output cannot be written
      TrainingError                training cannot go on

Each message is one sentence of what was wrong, with which file or tensor, and what to do. Options are spelled as in
Python (force=True, dtype=NAME); the command line shows them as its user types them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class ZooError(Exception):
    """Base of every error that zoo raises on purpose."""


class UnknownName(ZooError, LookupError):
    """A name that is not registered.

    Attributes:
        name: what was asked for.
        close: the nearest registered names, best first.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = list(known)
        self.name = name
        self.close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        suggestion = f"did you mean {' or '.join(self.close)}?" if self.close else f"known: {', '.join(known)}."
        super().__init__(" ".join(filter(None, (f"unknown {kind} {name!r}: {suggestion}", hint))))


class ConfigError(ZooError, ValueError):
    """A config field has a value it cannot have, or two fields disagree."""


class OptionError(ZooError, ValueError):
    """An argument of a call is outside its range.

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
    """A file cannot be fetched, or what the servers send is not the right one; what came so far is kept."""


class MissingPackage(ZooError, ImportError):
    """An optional package is needed; the message says which extra installs it."""


class FormatError(ZooError, ValueError):
    """A file is not what it says it is.

    Attributes:
        path: the file or directory.
    """

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        super().__init__(f"{path}: {problem}")


class CorruptFile(FormatError):
    """Checksums, lengths or offsets inside a file contradict each other."""


class UnsafeFile(FormatError):
    """Reading the file would run code in it or open files outside its directory."""


class CheckpointMismatch(FormatError):
    """Names, shapes or dtypes are not what the config and the format ask for.

    Attributes:
        problems: every difference, one sentence each; the message shows the first ten.
    """

    def __init__(self, path: Path | str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        shown = "; ".join(self.problems[:10])
        rest = len(self.problems) - 10
        super().__init__(path, shown + (f"; and {rest} more" if rest > 0 else ""))


class CannotHold(ZooError, ValueError):
    """The target format has no place for something this config says."""


class VerificationFailed(ZooError):
    """What was written does not read back as what was meant to be written."""


class OutputError(ZooError, OSError):
    """The output cannot be written; the old file, if any, is untouched."""


class TrainingError(ZooError):
    """Training cannot go on: the loss is not finite, say. What was saved before is untouched."""
