"""Fuzz the whole command line: any command, option and input; a sentence or an answer comes out, never a traceback.

`PYTHONPATH=tests python -m fuzz.command_line --seconds 60`. Commands that train, measure or use the network are given
options and inputs too, but only such as end before that begins: an unknown model, text that is not there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import Any

import click
from click.testing import CliRunner

from .cases import READERS, Case, entry, save_case, seeds
from .mutate import mutate

COMMANDS = ("convert", "inspect", "diff", "hash", "verify", "generate", "eval", "formats", "list", "plot")
WORDS = ("", "0", "-1", "1", "3", "1e400", "nan", "inf", "9" * 5000, "auto", "cpu", "cuda", "mps", "none", "zoo")
WORDS += (
    "gguf",
    "gpt2-small",
    "124M",
    "a\x1b]52;c;x\x07b",
    "\u202ename",
    "ä",
    "--",
    "-",
    ".",
    "/dev/null",
    "int4",
    "{}",
)


def make_arguments(random: Random, paths: list[str]) -> list[str]:
    """Return a command with options and arguments, more or less as its help asks for them."""
    from zoo.cli.main import main

    name = random.choice(COMMANDS)
    command, arguments = main.commands[name], [name]
    options = [each for each in command.params if isinstance(each, click.Option)]
    for option in random.sample(options, min(len(options), random.randrange(5))):
        arguments.append(random.choice([*option.opts, *option.secondary_opts]))
        if not option.is_flag:
            arguments += [_value(random, option, paths) for _ in range(option.nargs)]
    if name == "generate" and "--max-tokens" not in arguments:
        arguments += ["--max-tokens", "3"]
    if name == "convert" and "--source" not in arguments:
        arguments += ["--source", random.choice(paths)]
    positional = [each for each in command.params if isinstance(each, click.Argument)]
    arguments += [random.choice([*paths, random.choice(WORDS)]) for _ in positional]
    return arguments


def _value(random: Random, option: click.Option, paths: list[str]) -> str:
    if isinstance(option.type, click.Choice) and random.random() < 0.7:
        return str(random.choice(list(option.type.choices)))
    if "out" in option.name or "html" in option.name:  # type: ignore[operator] # an option has a name
        return random.choice(["out/m.safetensors", "out/m.gguf", "out/d", "out/no/such", "out/x.png", "-"])
    return random.choice([*paths, *WORDS]) if random.random() < 0.9 else str(random.randrange(-5, 99))


def make_case(random: Random) -> tuple[str, Case]:
    """Return a reader and a checkpoint, as it should be or mutated."""
    reader = random.choice(sorted(READERS))
    valid = seeds(reader)
    case = valid[random.choice(sorted(valid))]
    return reader, mutate(random, reader, case, list(valid.values())) if random.random() < 0.7 else case


def run_one(seed: int, number: int) -> tuple[list[str], str]:
    """Run a command line in the current, empty directory; return it and the traceback that came out, "" for none."""
    from zoo.cli.main import main

    random = Random(f"{seed} {number}")
    paths = []
    for i in range(2):
        reader, case = make_case(random)
        save_case(Path(f"case{i}"), case)
        paths.append(str(entry(reader, Path(f"case{i}"), case)))
    Path("out").mkdir(exist_ok=True)
    arguments = make_arguments(random, paths)
    standard_input = random.choice(["", "text\n", "\x00\udcff"[:1], "x" * 9000])
    result: Any = CliRunner().invoke(main, arguments, input=standard_input)
    if result.exception is None or isinstance(result.exception, SystemExit):
        return arguments, ""
    return arguments, "".join(traceback.format_exception(*result.exc_info))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--lines", type=int, default=1 << 60, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["ZOO_OFFLINE"] = "1"
    number, found, end = 0, set[str](), time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as work:
        os.environ["ZOO_CACHE"] = f"{work}/cache"
        os.chdir(work)
        while number < options.lines and time.monotonic() < end:
            arguments, trace = run_one(options.seed, number)
            number += 1
            if trace and (where := "".join(trace.splitlines()[-3:])) not in found:
                found.add(where)
                print(f"{number - 1}: {[each[:200] for each in arguments]}\n{trace}", file=sys.stderr, flush=True)
        os.chdir("/")
    print(f"{number:,} command lines, {len(found)} tracebacks")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
