"""Documents from files, directories, patterns, JSON lines and stdin."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import FormatError
from zoo.train.text import cut_characters, find_texts, read_documents


def test_sources_are_found_in_a_fixed_order(tmp_path):
    """Directories give their texts sorted, patterns theirs, and files of other kinds are left out."""
    for name in ("b.txt", "a.md", "c.jsonl", "d.png", "deep/e.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")

    names = [path.name for path in find_texts([tmp_path, str(tmp_path / "*.png"), "-"])]
    assert ["a.md", "b.txt", "c.jsonl", "e.txt", "d.png", "-"] == names


@pytest.mark.parametrize("source", ["missing.txt", "*.nothing", "empty"])
def test_a_source_without_files_is_named(tmp_path, monkeypatch, source):
    """What means no file is refused, not passed over."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=source.replace("*", r"\*")):
        find_texts([source])


@given(st.lists(st.text("ab<|>\n\r", min_size=1), max_size=5))
def test_documents_end_at_the_separator(tmp_path_factory, texts):
    """A text file is split at <|endoftext|>; line ends of every kind stay."""
    path = tmp_path_factory.mktemp("text") / "x.txt"
    path.write_bytes("<|endoftext|>".join(texts).encode())
    assert texts == list(read_documents(path))


def test_json_lines_give_one_document_each(tmp_path):
    """The field is the caller's choice; empty lines and texts are none."""
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([json.dumps({"body": "one\ntwo"}), "", json.dumps({"body": ""}), '{"body": "3"}']))
    assert ["one\ntwo", "3"] == list(read_documents(path, field="body"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text"', "line 2 is not JSON"),
        ("x.jsonl", b'{"text": "a"}\n{"body": "b"}', r"line 2 has no text in a field 'text' \(fields: body\)"),
        ("x.jsonl", b"[1]", "line 1 has no text"),
        ("x.txt", b"abc\xff", "is not text in UTF-8"),
    ],
)
def test_damaged_text_is_refused_with_its_place(tmp_path, name, content, message):
    """The message has the file, and the line or byte."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        list(read_documents(path))


def test_stdin_is_a_text(monkeypatch, tmp_path):
    """The path "-" reads stdin."""
    monkeypatch.setattr("sys.stdin", io.StringIO("one<|endoftext|>two"))
    assert ["one", "two"] == list(read_documents(find_texts(["-"])[0]))


@given(st.lists(st.text("abc", min_size=1), max_size=6), st.integers(0, 20))
def test_a_cut_keeps_every_character_in_its_place(documents, n_first):
    """The first part has n characters (or all there are), and both together are the whole."""
    first, second = cut_characters(documents, n_first)
    head, tail = list(first), list(second)
    whole = "".join(documents)
    assert (whole[:n_first], whole[n_first:]) == ("".join(head), "".join(tail))
    assert all(head + tail)
