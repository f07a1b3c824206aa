"""The tokenizer against known ids, against BPE written from its description, and against transformers."""

from __future__ import annotations

import functools
import json
import os
import pickle
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import FormatError, OptionError
from zoo.text.tokenizer import Tokenizer, _merged, _merged_long
from zoo.text.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
CHARS = {b: chr(b) for b in BYTES} | {b: chr(256 + i) for i, b in enumerate(sorted({*range(256)} - {*BYTES}))}

# Any text (of characters so old that all libraries have one category for them), and text dense in what the
# splitting pattern treats apart.
IN_3_2 = unicodedata.ucd_3_2_0.category
OLD = st.characters(exclude_categories=("Cs", "Cn")).filter(lambda char: IN_3_2(char) != "Cn")
DENSE = st.sampled_from(
    ["'s", "'ll", "'LL", " ", "  ", "\n", "\t", "\u3000", "\x1c", "a", " the", "ing", "é", "12", "½", "!?", "中", "😀"]
)
TEXTS = st.text(OLD) | st.lists(DENSE).map("".join)
IDS = st.lists(st.integers(0, 50256))


def words(text: str) -> list[str]:
    """Split text as OpenAI's encoder.py describes it, by Unicode category and without any regex."""

    def kind(char: str) -> str:
        category = unicodedata.category(char)
        blank = char.isspace() and char not in "\x1c\x1d\x1e\x1f"
        return "blank" if blank else category[0] if category[0] in "LN" else "other"

    found, i = [], 0
    while i < len(text):
        for ending in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"):
            if text.startswith(ending, i):
                end = i + len(ending)
                break
        else:
            first = i + (text[i] == " " and i + 1 < len(text) and kind(text[i + 1]) != "blank")
            end = first + 1
            while end < len(text) and kind(text[end]) == kind(text[first]):
                end += 1
            if kind(text[first]) == "blank" and end - i > 1 and end < len(text):
                end -= 1  # the last blank before a word is left to it
        found.append(text[i:end])
        i = end
    return found


def bpe(text: str, vocabulary: Vocabulary) -> list[int]:
    """Byte-level BPE from its description: in each word, join the pair of the first merge that applies."""
    rank = ranks_of(vocabulary)
    ids = []
    for word in words(text):
        parts = [CHARS[byte] for byte in word.encode()]
        while pairs := [pair for pair in pairwise(parts) if pair in rank]:
            first, joined = min(pairs, key=rank.__getitem__), []
            while parts:
                joined.append("".join(parts[:2]) if tuple(parts[:2]) == first else parts[0])
                del parts[: 2 if tuple(parts[:2]) == first else 1]
            parts = joined
        ids += [vocabulary.tokens.get(part, vocabulary.tokens.get("<|endoftext|>", -1)) for part in parts]
    return ids


@functools.lru_cache
def ranks_of(vocabulary: Vocabulary) -> dict[tuple[str, str], int]:
    return {pair: rank for rank, pair in enumerate(vocabulary.merges)}


def make(tokens: dict[str, int], merges: list[str], added: dict[str, int] | None = None) -> Vocabulary:
    return Vocabulary(
        json.dumps(tokens).encode(), "\n".join(merges).encode(), json.dumps(added).encode() if added else b""
    )


def small(merges: list[str], extra: tuple[str, ...] = ("<|endoftext|>", "<|pad|>")) -> Vocabulary:
    """All bytes and the merges' tokens, with ids in an order that says nothing about the merges."""
    tokens = {*CHARS.values(), *extra, *(merge.replace(" ", "") for merge in merges)}
    return make({token: i for i, token in enumerate(sorted(tokens, reverse=True))}, merges)


def transformers_tokenizer(vocabulary: Vocabulary):  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2Tokenizer(
        vocab=dict(vocabulary.tokens), merges=[*vocabulary.merges], clean_up_tokenization_spaces=False
    )


def test_known_ids() -> None:
    """The ids that OpenAI's own encoder gives."""
    tokenizer = Tokenizer()
    assert tokenizer.encode("Every effort moves you") == [6109, 3626, 6100, 345]
    assert tokenizer.encode("Hello, world. Is this-- a test?") == [
        15496,
        11,
        995,
        13,
        1148,
        428,
        438,
        257,
        1332,
        30,
    ]
    assert tokenizer.decode([15496, 995]) == "Hello world"
    assert (tokenizer.n_vocab, tokenizer.eos_id, tokenizer.encode("")) == (50257, 50256, [])


def test_end_of_text_is_special_unless_asked_not_to() -> None:
    """<|endoftext|> in a text is one token by default and plain text on request."""
    tokenizer = Tokenizer()
    assert tokenizer.encode("<|endoftext|>") == [50256]
    assert tokenizer.encode("a<|endoftext|> b<|endoftext|>") == [64, 50256, 275, 50256]
    assert tokenizer.encode("<|endoftext|>", special=False) == [27, 91, 437, 1659, 5239, 91, 29]


@given(TEXTS)
def test_same_ids_as_the_algorithm(text: str) -> None:
    """Every text encodes as BPE written from its description."""
    tokenizer = Tokenizer()
    assert tokenizer.encode(text) == bpe(text, Vocabulary.gpt2())


@given(st.text())
def test_decoding_gives_the_text_back(text: str) -> None:
    """Any text comes back from its ids."""
    assert Tokenizer().decode(Tokenizer().encode(text)) == text


@given(IDS)
def test_stream_gives_what_decode_gives(ids: list[int]) -> None:
    """Whatever the ids, also ones that are not UTF-8, the stream's pieces join to decode()."""
    tokenizer = Tokenizer()
    stream = tokenizer.stream()
    assert "".join([stream.feed(i) for i in ids]) + stream.flush() == tokenizer.decode(ids)
    assert tokenizer.decode(ids) == tokenizer.decode_bytes(ids).decode(errors="replace")


def test_stream_holds_back_half_a_character() -> None:
    """A character of several tokens appears with its last one; an unfinished one becomes U+FFFD, once."""
    tokenizer = Tokenizer()
    stream = tokenizer.stream()
    ids = tokenizer.encode("😀")
    assert [stream.feed(i) for i in ids] == [""] * (len(ids) - 1) + ["😀"]
    assert (stream.feed(ids[0]), stream.flush(), stream.flush()) == ("", "\ufffd", "")
    assert stream.feed(64) == "a"


@pytest.mark.parametrize("wrong", [50257, -1, 10**30])
def test_unknown_ids_are_named(wrong: int) -> None:
    """An id outside the vocabulary is an OptionError that names it."""
    tokenizer = Tokenizer()
    with pytest.raises(OptionError, match=f"{wrong} .*0 to 50256"):
        tokenizer.decode([64, wrong])
    with pytest.raises(OptionError, match=str(wrong)):
        tokenizer.stream().feed(wrong)


def test_surrogates() -> None:
    """A pair of surrogates is its character; a lone one is U+FFFD."""
    tokenizer = Tokenizer()
    assert tokenizer.encode("\ud83d\ude00") == tokenizer.encode("😀")
    assert tokenizer.decode(tokenizer.encode("a\ud800b<|endoftext|>\udfff")) == "a\ufffdb<|endoftext|>\ufffd"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a" * 1_000_000, [24794] * 250_000),
        ("\n" * 1_000_001 + "x", [628] * 500_000 + [198, 87]),
        ("x" + " " * 1_200_000 + "word", [87] + [220] * 1_199_999 + [1573]),
        (" " * 1_200_000 + "<|endoftext|>", [220] * 1_200_000 + [50256]),
    ],
    ids=["one word", "lines", "blanks", "blanks before a special token"],
)
def test_enormous_words(text: str, ids: list[int]) -> None:
    """A million letters or blanks in a row neither crash nor take minutes."""
    assert Tokenizer().encode(text) == ids


@pytest.mark.parametrize("end", ["word", " ", "\x1cx", "!", "\u3000", "<|endoftext|>"])
@pytest.mark.parametrize("blank", [" ", "\n", "\u3000", " \n"])
def test_cutting_long_blanks_changes_no_token(monkeypatch: pytest.MonkeyPatch, blank: str, end: str) -> None:
    """Where the text is cut to spare the regex engine, the tokens are those of the uncut text."""
    tokenizer = Tokenizer()
    text = f"x{blank * 30}{end} y {blank * 9}"
    whole = tokenizer.encode(text)
    monkeypatch.setattr("zoo.text.tokenizer.MAX_BLANKS", 4)
    assert tokenizer.encode(text) == whole


def test_threads_and_pickles_give_the_same_ids() -> None:
    """One tokenizer serves many threads, and a pickled one is its equal."""
    tokenizer, text = Tokenizer(), "Every effort moves you " * 200
    with ThreadPoolExecutor(8) as pool:
        assert len({tuple(ids) for ids in pool.map(tokenizer.encode, [text] * 32)}) == 1
    for original in (tokenizer, Tokenizer(small(["a b"]))):
        assert pickle.loads(pickle.dumps(original)).encode("ab") == original.encode("ab")


def test_import_is_light_and_use_is_offline(tmp_path: Path) -> None:
    """Importing loads neither torch, tiktoken nor tokenizers; encoding needs no network and no cache."""
    program = """
import sys, socket
def refuse(*args, **kwargs): raise SystemExit("touched the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import zoo.text.tokenizer
heavy = {"torch", "tiktoken", "tokenizers", "transformers", "numpy", "regex"} & set(sys.modules)
if heavy: raise SystemExit(f"imported {heavy}")
ids = zoo.text.tokenizer.Tokenizer().encode("Every effort moves you")
if ids != [6109, 3626, 6100, 345]: raise SystemExit("wrong ids")
if {"torch", "requests", "transformers"} & set(sys.modules): raise SystemExit("imported too much")
"""
    environment = os.environ | {"TIKTOKEN_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    child = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (child.returncode, child.stderr, list(tmp_path.iterdir())) == (0, "", [])


@pytest.mark.parametrize(
    ("merges", "problem"),
    [(["ab c", "a b"], "no earlier line"), (["a b", "b c"], "lacks 'bc'"), (["a €"], "no earlier line")],
)
def test_merges_that_do_not_fit_the_tokens(merges: list[str], problem: str) -> None:
    """Merges of tokens that do not exist are refused, not guessed at."""
    vocabulary = small(["a b", "ab c"])
    vocabulary = Vocabulary(vocabulary.encoder_json, "\n".join(merges).encode())
    with pytest.raises(FormatError, match=problem):
        Tokenizer(vocabulary)


LETTERS = st.text("abc", min_size=1, max_size=3)


@st.composite
def merge_lists(draw: st.DrawFn) -> list[str]:
    """Merges in any order that can be built, many of which make a token twice or can never happen."""
    known, merges = ["a", "b", "c"], []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.tuples(st.sampled_from(known), st.sampled_from(known)))
        merges.append(" ".join(pair))
        known.append("".join(pair))
    return list(dict.fromkeys(merges))


@settings(max_examples=300)
@given(merge_lists(), st.text("abc ", max_size=30))
def test_any_merges_encode_as_the_algorithm_says(merges: list[str], text: str) -> None:
    """Ids that say nothing of the merges' order, tokens made twice and impossible merges change no result."""
    vocabulary = small(merges)
    tokenizer = Tokenizer(vocabulary)
    assert tokenizer.encode(text) == bpe(text, vocabulary)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(merge_lists(), st.text("abc", min_size=1, max_size=60))
def test_long_words_are_merged_as_short_ones(merges: list[str], word: str) -> None:
    """The quick way for long words, which a file could fill minutes with, gives what the plain one gives."""
    ranks = {(left, right): rank for rank, (left, right) in enumerate(map(str.split, merges))}
    with mock.patch("zoo.text.tokenizer._LONG_WORD", 1000):
        assert _merged_long(word, ranks) == _merged(word, ranks)


def test_special_and_missing_tokens_of_other_vocabularies() -> None:
    """Added and <...> tokens are special, a byte without token is <|endoftext|>, unused ids are refused."""
    base = {"a": 7, "b": 3, "ab": 0, "<|endoftext|>": 9, "<|pad|>": 1, "Ġa": 2}
    tokenizer = Tokenizer(make(base, ["#version: 0.2", "a b"], {"<é>": 20, "<é>b": 21, "new word": 22}))
    assert tokenizer.encode("ab<|pad|><é>b<é>a new worda") == [0, 1, 21, 20, 7, 9, 22, 7]
    assert tokenizer.encode("abzb a") == [0, 9, 3, 9, 7]
    assert tokenizer.decode([0, 20, 22, 2]) == "ab<é>new word a"
    assert (tokenizer.n_vocab, tokenizer.eos_id) == (23, 9)
    with pytest.raises(OptionError, match="token id 4 "):
        tokenizer.decode([4])
    assert Tokenizer(small([], extra=())).eos_id is None
    with pytest.raises(FormatError, match="no token for some byte"):
        Tokenizer(make({"a": 0}, []))


@pytest.mark.peers
@settings(deadline=None)
@given(TEXTS)
def test_same_ids_as_transformers(text: str) -> None:
    """Transformers' GPT2Tokenizer, given GPT-2's two files, agrees on every text."""
    assert Tokenizer().encode(text) == gpt2_of_transformers().encode(text)


@pytest.mark.peers
@given(IDS)
def test_same_text_as_transformers(ids: list[int]) -> None:
    """Transformers' GPT2Tokenizer decodes every list of ids to the same text."""
    assert Tokenizer().decode(ids) == gpt2_of_transformers().decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.peers
@settings(deadline=None)
@given(merge_lists(), st.text("abc ", max_size=30))
def test_other_vocabularies_agree_with_transformers(merges: list[str], text: str) -> None:
    """Transformers agrees on small vocabularies whose ids are in no order."""
    vocabulary = small(merges)
    assert Tokenizer(vocabulary).encode(text) == transformers_tokenizer(vocabulary).encode(text)


@functools.lru_cache
def gpt2_of_transformers():  # type: ignore[no-untyped-def]
    return transformers_tokenizer(Vocabulary.gpt2())
