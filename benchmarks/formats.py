"""Send a model through every format and back: time, peak anonymous memory, size, as a table.

    python benchmarks/formats.py models/124M [--json]

The source is any checkpoint. Each conversion runs in a process of its own, verified, and nothing is warmed up but the
source's file cache. Formats that cannot hold the model, or whose package is missing, are listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from zoo.formats.registry import usable_formats

CONVERT = """
import json, sys, zoo
source, out, to = sys.argv[1:]
try:
    report = zoo.convert(source, out, to=to)
    print(json.dumps({"seconds": report.seconds, "memory": report.peak_memory, "verified": report.verified}))
except zoo.ZooError as error:
    print(json.dumps({"error": str(error)}))
"""


def convert(source: Path, out: Path, to: str) -> dict[str, Any]:
    """Convert in a new process and return its measurements or its error."""
    command = [sys.executable, "-c", CONVERT, str(source), str(out), to]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(source: Path, work: Path) -> dict[str, dict[str, Any]]:
    """Measure every format: the conversion to it, its size, and the conversion back."""
    start = work / "start.safetensors"
    convert(source, start, "zoo")
    rows = {}
    for found in usable_formats():
        if not found.writes:
            rows[found.name] = {"to": {"error": "zoo only reads it"}}
            continue
        out = work / f"{found.name}{'' if found.is_directory else (*found.suffixes, '.bin')[0]}"
        row: dict[str, Any] = {"to": convert(start, out, found.name)}
        if out.exists():
            files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
            row["bytes"] = sum(path.stat().st_size for path in files)
            if found.reads:
                row["back"] = convert(out, work / "back.safetensors", "zoo")
                (work / "back.safetensors").unlink()
        rows[found.name] = row
        subprocess.run(["rm", "-rf", str(out)], check=True)
    return rows


def line(name: str, row: dict[str, Any]) -> str:
    """Return one row of the table."""
    if "error" in row["to"]:
        return f"| `{name}` | {row['to']['error']} | | | | |"
    cells = [f"{row['bytes']:,}"]
    for way in ("to", "back"):
        result = row.get(way)
        cells += [f"{result['seconds']:.2f}", f"{result['memory'] / 1e6:.0f}"] if result else ["", ""]
    return f"| `{name}` | {' | '.join(cells)} |"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.source.parent) as work:
        rows = measure(arguments.source, Path(work))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("| format | bytes | to it, s | MB of memory | back, s | MB of memory |\n|---|---|---|---|---|---|")
    print("\n".join(line(name, row) for name, row in rows.items()))


if __name__ == "__main__":
    main()
