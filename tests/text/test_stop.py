"""Streaming text: whole characters, and stop strings that tokens cut anywhere."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zoo.text.gpt2 import ALPHABET
from zoo.text.stop import TextStream
from zoo.text.stream_decoder import BytesStream
from zoo.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer()
BYTE_IDS = {bytes([byte]): i for i, (byte, _) in enumerate(ALPHABET)}


def byte_ids(text):
    """A text as one token a byte."""
    return [BYTE_IDS[bytes([byte])] for byte in text.encode()]


def stream(ids, *stop):
    """The pieces that a stream gives for ids up to a stop string, and whether one came."""
    text, pieces = TextStream(TOKENIZER, stop), []
    for i in ids:
        pieces.append(text.feed(i))
        if text.stopped:
            return pieces, True
    return [*pieces, text.finish()], text.stopped


def first_stop(text, stop):
    """A text up to the stop string that is complete first, the longer of two; letter by letter."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stop if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)], True
    return text, False


def test_held_back_until_it_cannot_match():
    """Text that begins a stop string waits, and comes as soon as it cannot be one."""
    assert stream(byte_ids("xaac"), "aab") == (["x", "", "", "aac", ""], False)


def test_overlapping_itself():
    """The stop string "aab" is found in "aaab"; a matcher that starts anew after a mismatch misses it."""
    assert stream(byte_ids("aaab"), "aab") == (["", "", "a", ""], True)


def test_stop_at_once():
    """A stop string at the very start leaves no text."""
    assert stream(TOKENIZER.encode("the"), "th") == ([""], True)


def test_unfinished_stop_is_text():
    """What was held back comes in the end."""
    assert stream(byte_ids("aa"), "aab") == (["", "", "aa"], False)


def test_within_one_token():
    """Text before a stop string inside one token is kept, text behind it is not."""
    assert stream(TOKENIZER.encode(" forward"), "w", "ard") == ([" for"], True)


def test_several():
    """The string that is complete first wins; of two that end together, the longer."""
    assert "".join(stream(byte_ids("abcd"), "bcd", "c")[0]) == "ab"
    assert "".join(stream(byte_ids("abcd"), "bcd", "cd", "d")[0]) == "a"


def test_characters_are_whole():
    """A character comes with its last byte; an incomplete one ends as U+FFFD."""
    assert stream(byte_ids("é!")) == (["", "é", "!", ""], False)
    assert stream(byte_ids("\N{PILE OF POO}")[:3]) == (["", "", "", "\N{REPLACEMENT CHARACTER}"], False)


def test_unknown_id():
    """An id that the tokenizer lacks reads as U+FFFD, also amid a character."""
    ids = [byte_ids("é")[0], 60000, *byte_ids("z")]

    assert stream(ids) == (["", "\ufffd\ufffd", "z", ""], False)


@pytest.mark.parametrize("split", [1, 2, 3, 7])
@given(st.text("aβ😀", max_size=30), st.lists(st.text("aβ😀", min_size=1, max_size=4), max_size=3))
@example("aaaβ", ["aaβ"])
def test_any_cut(split, text, stop):
    """However the tokens cut the bytes, the text is the whole text up to its first stop string."""
    tokenizer = _Bytes(text.encode(), split)
    out = TextStream(tokenizer, stop)
    got = ""
    for i in range(tokenizer.n_pieces):
        got += out.feed(i)
        if out.stopped:
            break
    got += out.finish()
    expected, found = first_stop(text, stop)

    assert (expected, found) == (got, out.stopped)


class _Bytes(Tokenizer):
    """Token i is the i-th piece of some bytes."""

    def __init__(self, data, size):
        super().__init__()
        self.data, self.size = data, size
        self.n_pieces = -(-len(data) // size)

    def stream(self):
        return BytesStream(lambda i: self.data[i * self.size : (i + 1) * self.size])
