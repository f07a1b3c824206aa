"""What all commands share: how errors are shown, help is formatted and wrong names are answered."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from zoo.cli._show import is_terminal, printable
from zoo.errors import OptionError, ZooError

_OPTION = re.compile(r"\b([a-z_]+)=(True|False|[A-Z]+\b|'[^']*'|\"[^\"]*\")")
"""An option in an error of the library, spelled as in Python: force=True, dtype=NAME."""

_ELSEWHERE = {
    "format": "`zoo convert --from {}`",
    "size": "`zoo convert --size {}`",
    "dtype": "`zoo convert --dtype {}`",
}
"""Advice for commands that lack an option themselves."""

_HARD_HYPHEN = "\N{NON-BREAKING HYPHEN}"


class HelpFormatter(click.HelpFormatter):
    """click's, without line breaks inside of --an-option."""

    def write_text(self, text: str) -> None:
        """Write a paragraph."""
        super().write_text(text.replace("-", _HARD_HYPHEN))

    def write_dl(self, rows: Any, *args: Any, **kwargs: Any) -> None:
        """Write a list of options."""
        super().write_dl([tuple(cell.replace("-", _HARD_HYPHEN) for cell in row) for row in rows], *args, **kwargs)

    def getvalue(self) -> str:
        """Return everything written."""
        return super().getvalue().replace(_HARD_HYPHEN, "-")


class Context(click.Context):
    """click's, with the formatter above."""

    formatter_class = HelpFormatter


class Group(click.Group):
    """A group whose commands show a ZooError as one line on stderr and exit with status 1."""

    context_class = Context

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, whose help is formatted as that of all."""
        cmd.context_class = Context
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; for a wrong name suggest the nearest."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(self.list_commands(ctx))}."
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Anything but a ZooError passes: it is a bug, and its traceback is wanted."""
        try:
            with _exit_on_sigterm(), _writable_stdout():
                return super().invoke(ctx)
        except ZooError as error:
            command = self.commands[ctx.invoked_subcommand or ""]
            refused = isinstance(error, OptionError) and error.option in {param.name for param in command.params}
            shown = _RefusedValue if refused else click.ClickException
            raise shown(printable(" ".join(as_typed(error, command).split()))) from error


class _RefusedValue(click.ClickException):
    """A value that the library refuses ends as one that click refuses."""

    exit_code = 2


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _writable_stdout() -> Iterator[None]:
    """Show characters that a terminal lacks as escapes, and a full disk behind stdout as an error."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF) or error.filename:
            raise
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)  # or the interpreter fails again when it flushes stdout at its end
        raise click.ClickException(f"cannot write to standard output: {error.strerror}") from error


def as_typed(error: ZooError, command: click.Command) -> str:
    """Return an error's message with options spelled as a user of the command types them."""
    names = {param.name: param for param in command.params}
    text = str(error)
    if isinstance(error, OptionError) and error.option in names:
        text = f"{_spelled(names[error.option])} {error.problem}"

    def spelled(match: re.Match[str]) -> str:
        name, value = match[1], match[2].strip("'\"")
        if name in names:
            return _spelled(names[name], value)
        if name == "format" and "from_a" in names:
            return f"--from-a or --from-b {value}"
        return _ELSEWHERE[name].format(value) if name in _ELSEWHERE else match[0]

    return _OPTION.sub(spelled, text)


def _spelled(param: click.Parameter, value: str = "") -> str:
    """Return an option as it is typed: --force, --no-verify, --dtype NAME."""
    if isinstance(param, click.Argument):
        return param.human_readable_name
    if isinstance(param, click.Option) and param.is_flag:
        return max(param.secondary_opts if value == "False" else param.opts, key=len)
    return f"{max(param.opts, key=len)} {value}".strip()


def quiet_libraries() -> None:
    """Keep libraries from printing beside the one line of an error."""
    if not is_terminal(sys.stderr):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
