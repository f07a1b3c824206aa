"""Documents from files, directories, patterns, JSON lines and stdin."""

import io
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zoo
from zoo.errors import FormatError
from zoo.train.data import documents as module
from zoo.train.data.documents import Continuation, cut_characters, find_texts, read_documents
from zoo.train.data.tokens import encode_documents


def test_sources_are_found_in_a_fixed_order(tmp_path):
    """Directories and patterns give their texts in sorted order, and files of other kinds are skipped."""
    for name in ("b.txt", "a.md", "c.jsonl", "d.png", "deep/e.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")

    names = [path.name for path in find_texts([tmp_path, str(tmp_path / "*.png"), "-"])]
    assert ["a.md", "b.txt", "c.jsonl", "e.txt", "d.png", "-"] == names


@pytest.mark.parametrize("source", ["missing.txt", "*.nothing", "empty"])
def test_a_source_without_files_is_named(tmp_path, monkeypatch, source):
    """A source that matches no file is refused instead of skipped."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=source.replace("*", r"\*")):
        find_texts([source])


@given(st.lists(st.text("ab<|>\n\r", min_size=1), max_size=5))
def test_documents_end_at_the_separator(tmp_path_factory, texts):
    """A text file is split at <|endoftext|>; all kinds of line ends are kept."""
    path = tmp_path_factory.mktemp("text") / "x.txt"
    path.write_bytes("<|endoftext|>".join(texts).encode())
    assert texts == list(read_documents(path))


def test_json_lines_give_one_document_each(tmp_path):
    """The caller chooses the key of the text; empty lines and texts are skipped."""
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([json.dumps({"body": "one\ntwo"}), "", json.dumps({"body": ""}), '{"body": "3"}']))
    assert ["one\ntwo", "3"] == list(read_documents(path, field="body"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text"', "line 2 is not JSON"),
        ("x.jsonl", b'{"text": "a"}\n{"body": "b"}', r"line 2 has no text under the key 'text' \(keys: body\)"),
        ("x.jsonl", b"[1]", "line 1 has no text"),
        ("x.txt", b"abc\xff", "is not UTF-8 text"),
    ],
)
def test_damaged_text_is_refused_with_its_place(tmp_path, name, content, message):
    """The error names the file and the line or byte."""
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


@given(
    st.lists(st.text("ab'1 !\n\t\x1c\u3000\u672c<|endoftext|>", max_size=60), min_size=1, max_size=4),
    st.integers(1, 40),
)
def test_pieces_of_long_documents_have_the_tokens_of_the_whole(tmp_path_factory, texts, size):
    """For every way of splitting a text into blocks and pieces, tokens and separators are those of its documents."""
    path = tmp_path_factory.mktemp("text") / "x.txt"
    path.write_bytes("<|endoftext|>".join(texts).encode())
    expected = [zoo.Tokenizer().encode(document) for document in read_documents(path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", size)
        patch.setattr(module, "_PIECE", 5)
        pieces = list(read_documents(path))
    assert len(expected) == sum(not isinstance(piece, Continuation) for piece in pieces)
    joined = [token for ids in expected for token in (50256, *ids)][1:]
    assert joined == np.concatenate([np.zeros(0, int), *encode_documents(pieces, zoo.Tokenizer())]).tolist()

    n = len("".join(pieces)) // 2
    first, second = cut_characters(pieces, n)
    head = list(first)
    assert [type(piece) for piece in pieces[: len(head)]] == [type(piece) for piece in head]
    assert "".join(pieces) == "".join([*head, *second])


def test_a_file_without_separators_is_read_in_little_memory(tmp_path):
    """A single document of 60 MB is read in little memory, and its pieces are the text."""
    path, line = tmp_path / "x.txt", "Every effort moves you a little forward, every day.\n"
    path.write_text(line * 1_200_000)
    tracemalloc.start()
    try:
        length = longest = 0
        for piece in read_documents(path):
            length, longest = length + len(piece), max(longest, len(piece))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(line) * 1_200_000 == length
    assert longest < 6_000_000
    assert peak < 40_000_000
