"""Docs, docstrings, comments, help and errors are plain technical English: docs/contributing.md has the rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STUMBLING_BLOCKS = {
    r"go(es|ing|ne)? on with|go on training": "resume, continue training, fine-tune",
    r"shar(e|ed|es|ing) out": "shard, distribute",
    r"whole numbers?": "integer",
    r"(is|are) whole|no whole": "complete, intact; truncated, corrupt",
    r"(?<!there )(is|are) no (?!longer|more|less)\w+": "is not a ...",
    r"cut short": "truncated",
    r"what may be asked": "options",
    r"(is|are) told of": "reported, passed to the callback",
    r"tak(e|es|ing) turns": "run alternately",
    r"numbers about": "statistics",
    r"the first cache": "L1 cache",
    r"(read|reads|reading) a prompt": "prefill",
    r"behind (a|the|each|every|\d+) tokens?": "after, before",
    r"that which": "the one that, what",
}
"""Phrases that made readers stumble -> what the field says."""

GENERATED = ("docs/cli.md", "docs/python-api.md")
"""Pages that tools/docs.py writes from the code."""


def files():
    """Every page and every source file, but this one."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    sources = [
        path
        for folder in ("zoo", "converters", "cli", "tools", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*")
    ]
    code = [path for path in sources if path.suffix in (".py", ".c", ".h") and "build" not in path.parts]
    return [
        path
        for path in (*pages, *code)
        if path != Path(__file__) and path.relative_to(ROOT).as_posix() not in GENERATED
    ]


def findings(text):
    """Return each phrase in a text that the field says otherwise, and how; line breaks do not hide one."""
    flat = re.sub(r"\s+(#\s+)?", " ", text)
    return [
        f"{found[0]!r}: write {better}"
        for pattern, better in STUMBLING_BLOCKS.items()
        for found in re.finditer(rf"\b({pattern})\b", flat, re.IGNORECASE)
    ]


def test_no_text_has_a_phrase_that_made_readers_stumble():
    """Pages and sources use the field's words."""
    wrong = {path.relative_to(ROOT).as_posix(): findings(path.read_text(encoding="utf-8")) for path in files()}

    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("The run is gone\n    on with later.", 1),
        ("# A file that is cut\n# short.", 1),
        ("It is no whole file.", 2),
        ("There is no such file, and it is no longer needed.", 0),
        ("The file is not complete.", 0),
    ],
)
def test_a_phrase_is_found_across_lines(text, n):
    """Wrapped phrases and those in comments count, usual English does not."""
    assert len(findings(text)) == n


def test_lines_of_prose_have_at_most_100_columns():
    """Pages can be read in a terminal; only tables, code, quotes and pictures may be wider."""
    wide = []
    for page in (ROOT / "docs").rglob("*.md"):
        if page.relative_to(ROOT).as_posix() in GENERATED:
            continue
        text = re.sub(
            r"<!-- (\w+) -->.*?<!-- /\1 -->|^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE
        )
        lines = (line for line in text.splitlines() if not line.startswith(("|", ">", "    ", "!")))
        wide += [f"{page.name}: {line}" for line in lines if len(line) > 100]

    assert wide == []
