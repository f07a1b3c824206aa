"""The texts of a prompts file, as JSON lines in the order of the prompts; a killed run can be resumed.

A line repeats its prompt's fields (id, prompt, own options) and adds text, ids (its tokens) and finish_reason. The
settings of all lines are stored next to it in FILE.settings.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from zoo.core.output import as_output_error, atomic_output
from zoo.errors import FormatError, OutputError
from zoo.generation.options import GenerationOptions
from zoo.generation.prompt_file import PromptLine
from zoo.generation.row import Prompt, Token

Result = dict[str, Any]
Generate = Callable[[Iterator[tuple[Prompt, GenerationOptions]]], Iterator[tuple[int, Token]]]
"""generate_many with all arguments bound except the items."""

_MADE = ("text", "ids", "finish_reason")


def make_results(lines: Iterable[PromptLine], generate: Generate) -> Iterator[Result]:
    """Continue prompts and yield the results in the order of the lines.

    A text that is finished before an earlier one is held back until that one is finished.
    """
    begun: dict[int, Result] = {}

    def items() -> Iterator[tuple[Prompt, GenerationOptions]]:
        for i, line in enumerate(lines):
            begun[i] = {**line.fields, "text": "", "ids": [], "finish_reason": None}
            yield line.ids, line.options

    next_one = 0
    for i, token in generate(items()):
        begun[i]["text"] += token.text
        begun[i]["ids"].append(token.id)
        begun[i]["finish_reason"] = token.finish_reason
        while next_one in begun and begun[next_one]["finish_reason"]:
            yield begun.pop(next_one)
            next_one += 1


class ResultFile:
    """Results file, new or resumed. A context manager that holds an exclusive lock."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open the file and check that its results were made with the same settings.

        Args:
            path: .jsonl; it may exist.
            settings: Everything that determines the texts, as JSON values.

        Raises:
            OutputError: The file has other settings or was not written by zoo, another process is writing it, or it
                cannot be written.
        """
        self.path = path
        with ExitStack() as stack:
            try:
                self._file: BinaryIO = stack.enter_context(path.open("ab+"))
                self._lock()
                self._settle(json.loads(json.dumps(settings)))
            except OSError as error:
                raise as_output_error(error, path) from error
            stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def keep(self, lines: Iterator[PromptLine]) -> int:
        """Keep the complete results, remove an incomplete last one, and skip their prompts in `lines`.

        Returns:
            The number of results that are kept.

        Raises:
            FormatError: A line of the file is not a result.
            OutputError: A result belongs to another prompt, or there are more results than prompts.
        """
        n, end = 0, 0
        self._file.seek(0)
        for raw in self._file:
            if not raw.endswith(b"\n"):
                break
            n, end = n + 1, end + len(raw)
            self._compare(n, raw, next(lines, None))
        self._file.truncate(end)
        return n

    def write(self, result: Result) -> None:
        """Append a result, which is then safe even if this process is killed.

        Raises:
            OutputError: The file cannot be written, for example because the disk is full. The run can be resumed.
        """
        line = json.dumps(result).encode() + b"\n"
        try:
            while line:  # bypasses the buffer, which would retry a failed write when it is closed
                line = line[os.write(self._file.fileno(), line) :]
        except OSError as error:
            raise as_output_error(error, self.path) from error

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{self.path} is being written by another process; wait for it, or end it") from None

    def _settle(self, settings: dict[str, Any]) -> None:
        """Compare the settings with the stored ones; for a new file, store them."""
        beside = self.path.with_name(f"{self.path.name}.settings.json")
        if not self.path.stat().st_size:
            with atomic_output(beside, force=True) as temporary:
                temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            return
        try:
            before = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if not isinstance(before, dict):
            raise OutputError(f"{self.path} exists, but its settings ({beside.name}) are missing; choose another --out")
        keys = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        if keys:
            differ = ", ".join(f"{key} was {_shown(before.get(key))}, not {_shown(settings.get(key))}" for key in keys)
            raise OutputError(f"{self.path} was started with other settings: {differ}; give those, or another --out")

    def _compare(self, n: int, raw: bytes, line: PromptLine | None) -> None:
        try:
            result = json.loads(raw)
        except ValueError:
            result = None
        if not isinstance(result, dict) or not all(key in result for key in _MADE):
            raise FormatError(
                self.path, f"line {n} is not a result; remove it and what follows, or choose another --out"
            )
        if line is None:
            raise OutputError(f"{self.path} has at least {n} results for {n - 1} prompts; choose another --out")
        before = {key: value for key, value in result.items() if key not in _MADE}
        for key in {**before, **line.fields}:
            old, new = before.get(key), line.fields.get(key)
            if old != new:
                raise OutputError(
                    f"{self.path} line {n} was made with the {key} {_shown(old)}, but line {line.number} of the "
                    f"prompts has {_shown(new)}; give the same prompts, or another --out"
                )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
