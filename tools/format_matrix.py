"""Convert small models from every format to every other and back, and write the results into docs/formats.md.

python tools/format_matrix.py           # write
python tools/format_matrix.py --check   # exit 1 if the page has other results
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import zoo
from zoo.errors import CannotHold
from zoo.formats.base import Format
from zoo.formats.registry import usable_formats

PAGE = Path(__file__).resolve().parents[1] / "docs" / "formats.md"
_BASE = {"vocab_size": 97, "context_length": 23, "width": 30, "n_heads": 5, "n_layers": 2}
CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "a": ("GPT-2's own shape: tied head, all biases", {}),
    "b": ("a head of its own", {"tied": False}),
    "c": ("no biases at all", {"bias": False, "qkv_bias": False}),
    "d": ("a vocabulary of 128 tokens, which llm.c need not pad", {"vocab_size": 128}),
    "e": ("an inner width that is not 4 C", {"inner_width": 70}),
    "f": ("the book's: no query, key and value biases, a head of its own", {"qkv_bias": False, "tied": False}),
    "g": ("exact GELU and another epsilon", {"activation": "gelu", "norm_eps": 1e-6}),
}
VERDICTS = {
    "zoo": ("the safetensors package reads it: same bits", "../containers/test_safetensors.py"),
    "openai": ("TensorFlow reads all tensors: same bits", "test_openai.py"),
    "huggingface": ("transformers loads it without a warning: logits to 1e-6", "test_huggingface.py"),
    "book": ("the book's model, rewritten from its description, loads it strictly", "test_book.py"),
    "nanogpt": ("a model of nanoGPT's layout loads it strictly", "test_nanogpt.py"),
    "mingpt": ("a model of minGPT's layout loads it strictly", "test_mingpt.py"),
    "llm.c": ("an independent parser finds every value; published sizes", "test_llmc.py"),
    "gguf": ("llama.cpp loads it: logits to 5e-4 (float32)", "test_gguf_llama.py"),
    "megatron": ("layout tests only: unproven", "test_megatron.py"),
    "keras-hub": ("keras-hub loads it: logits to 1e-6", "test_keras_hub.py"),
    "flax": ("the bytes that transformers 4.57 wrote", "test_flax.py"),
    "ctranslate2": ("ctranslate2 generates our tokens: scores to 1e-4", "test_ctranslate2.py"),
    "onnx": ("onnxruntime: logits to 1e-5, cached greedy tokens equal", "test_onnx.py"),
}
"""How each written format is proven, and the test file that does it."""


def both_ways() -> list[Format]:
    """Return the formats that zoo reads and writes."""
    return [each for each in usable_formats() if each.reads and each.writes]


def config_of(letter: str) -> zoo.GPTConfig:
    """Return the config for a letter."""
    return zoo.GPTConfig(**{**_BASE, **CONFIGS[letter][1]})  # type: ignore[arg-type]


def place(directory: Path, found: Format, stem: str) -> Path:
    """Return a path with a suffix that the format accepts."""
    return directory / (stem + "".join(found.suffixes[:1]))


def journeys(directory: Path, letter: str) -> Iterator[tuple[str, str, str]]:
    """Take a random model of one config from each format to each and back.

    Yields:
        (from, to, what went wrong): "" if content hash, config and bits are what they were; "refused" if the format
        cannot hold the config.
    """
    formats, config = both_ways(), config_of(letter)
    model = zoo.create(config, seed=3)
    for first in formats:
        source = place(directory, first, f"{letter}-{first.name}")
        try:
            zoo.save(model, source, to=first.name, strict=True)
        except CannotHold:
            yield from ((first.name, second.name, "refused") for second in formats)
            continue
        before = zoo.content_hash(source, format=first.name)
        for second in formats:
            there = place(directory, second, f"{letter}-{first.name}-{second.name}")
            back = place(directory, first, f"{letter}-{first.name}-{second.name}-back")
            try:
                zoo.convert(source, there, to=second.name, format=first.name, strict=True)
            except CannotHold:
                yield first.name, second.name, "refused"
                continue
            zoo.convert(there, back, to=first.name, format=second.name)
            found = zoo.diff(source, back, formats=(first.name, first.name))
            hashes = {before, zoo.content_hash(there, format=second.name), zoo.content_hash(back, format=first.name)}
            fine = len(hashes) == 1 and found.same and not found.config
            yield first.name, second.name, "" if fine else f"{len(hashes)} hashes, config {found.config}"


def section() -> str:
    """Return the section of the page: what each pair preserves, what is refused and why, and how formats are proven."""
    cells: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as directory:
        for letter in CONFIGS:
            for first, second, wrong in journeys(Path(directory), letter):
                mark = {"": letter, "refused": ""}.get(wrong)
                if mark is None:
                    raise SystemExit(f"{first} -> {second} -> {first} changes {letter}: {wrong}")
                cells[first, second] = cells.get((first, second), "") + mark
    names = [each.name for each in both_ways()]
    lines = [f"- {letter}: {text}" for letter, (text, _) in CONFIGS.items()]
    lines += ["", f"| from \\ to | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {first} | {' | '.join(cells[first, second] or '-' for second in names)} |" for first in names]
    lines += ["", "| format | proven by | does not hold |", "|---|---|---|"]
    writable = [each for each in usable_formats() if each.writes and each.name in VERDICTS]
    lines += [_row(each) for each in writable]
    return "\n".join(lines)


def _row(found: Format) -> str:
    verdict, file = VERDICTS[found.name]
    link = os.path.normpath(f"../tests/converters/{file}")
    reasons = {letter: found.cannot_hold(config_of(letter)) for letter in CONFIGS}
    refused = "; ".join(f"{letter}: {', '.join(why)}" for letter, why in reasons.items() if why)
    refused = refused.replace("it has no place for ", "")
    return f"| `{found.name}` | {verdict} ([{Path(file).name}]({link})) | {refused} |"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    content = section()
    pattern = r"(<!-- matrix -->\n).*?(<!-- /matrix -->)"
    new = re.sub(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", old, flags=re.DOTALL)
    if check and new != old:
        sys.exit("docs/formats.md is stale; run `python tools/format_matrix.py`")
    if new != old:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
