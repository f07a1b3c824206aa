"""Byte-level BPE with GPT-2's splitting pattern, run by tiktoken.

tiktoken gets the tokens' bytes and the splitting pattern from here; it never looks for files or a network.
"""

from __future__ import annotations

import functools
import heapq
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from zoo.errors import OptionError
from zoo.text.gpt2 import ALPHABET, END_OF_TEXT, gpt2_tokens, token_bytes
from zoo.text.parsing import Merges

if TYPE_CHECKING:
    from tiktoken import Encoding

    from zoo.text.vocabulary_files import Contents

PATTERN: Final = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""How GPT-2 splits text into words, in tiktoken's faster spelling (r50k_pat_str) of OpenAI's."""

MAX_BLANKS: Final = 100_000
"""Longest run of white space that tiktoken's regex is given before other text; at a million it gives up."""

# Python's \s and Rust's differ in these four control characters.
_BLANKS: Final = re.compile(r"[^\S\x1c-\x1f]{3,}")
_LONG_WORD: Final = 32
_MAX_SPECIAL: Final = 1 << 18  # characters of all special tokens; they become one regular expression


class ByteLevelCodec:
    """Encodes and decodes with one byte-level BPE vocabulary."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        # Longest first, so that of <|a|> and <|a|>b the longer one is found where both begin.
        longest_first = sorted(tables.special, key=len, reverse=True)
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._encoding = tables.encoding()

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the ids of a text; tiktoken replaces lone surrogates by U+FFFD.

        Raises:
            OptionError: the vocabulary has no token for one of the text's bytes.
        """
        ids: list[int] = []
        parts = self._special_pattern.split(text) if special else [text]
        for i, part in enumerate(parts):
            # re.split puts what matched the group at the odd places.
            if i % 2:
                ids.append(self._tables.special[part])
                continue
            prefix = " " if self._tables.add_prefix_space and part and not part.startswith(" ") else ""
            for piece in _pieces(prefix + part):
                ids += self._encode_plain(piece)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token, which may begin or end inside a character.

        Raises:
            KeyError: the id is not in the vocabulary.
        """
        return self._tables.bytes_of[token_id]

    def _encode_plain(self, text: str) -> list[int]:
        # Encoding.encode_ordinary would be the plain way, but lets a Rust panic through where encode raises.
        ranks = self._encoding.encode(text, disallowed_special=())
        id_of = self._tables.id_of_rank
        ids = [id_of[rank] for rank in ranks] if id_of else ranks
        if -1 in ids:
            byte = ALPHABET[ranks[ids.index(-1)]][0]
            raise OptionError(f"the vocabulary has no token for the byte 0x{byte:02x} of this text; leave it out")
        return ids


class Tables(NamedTuple):
    """A vocabulary in the form that tiktoken needs.

    Attributes:
        ranks: token -> priority, tiktoken's own "ids".
        id_of_rank: empty where every rank is the id, as in GPT-2; -1 for a byte that has no token.
        bytes_of: id -> bytes.
        special: tokens that are found in the text before it is split -> id.
        add_prefix_space: whether a text gets a space before it.
    """

    ranks: dict[bytes, int]
    id_of_rank: list[int]
    bytes_of: dict[int, bytes]
    special: dict[str, int]
    add_prefix_space: bool = False

    def encoding(self) -> Encoding:
        """Build tiktoken's encoding."""
        from tiktoken import Encoding

        return Encoding("zoo", pat_str=PATTERN, mergeable_ranks=self.ranks, special_tokens={})


@functools.lru_cache(maxsize=1)
def gpt2_codec() -> ByteLevelCodec:
    """Return the codec of GPT-2, which is built once."""
    tokens = gpt2_tokens()
    ranks = {token: i for i, token in enumerate(tokens)}
    bytes_of = dict(enumerate([*tokens, END_OF_TEXT.encode()]))
    return ByteLevelCodec(Tables(ranks, [], bytes_of, {END_OF_TEXT: len(tokens)}))


def make_codec(contents: Contents) -> ByteLevelCodec:
    """Build the codec of another vocabulary.

    Raises:
        OptionError: it has too many special tokens.
    """
    ids, special = contents.tokens, {text: token.id for text, token in contents.added.items()}
    if sum(map(len, special)) > _MAX_SPECIAL:
        raise OptionError(f"the vocabulary has {len(special):,} special tokens, too many for a GPT-2; give token ids")
    live = _live_merges(contents.merges)
    ranks = {bytes([byte]): rank for rank, (byte, _) in enumerate(ALPHABET)}
    ranks |= {token_bytes(token): rank for rank, token in enumerate(live, start=len(ranks))}
    id_of_rank = [ids.get(token, -1) for token in (*(char for _, char in ALPHABET), *live)]
    bytes_of = {
        i: token.encode("utf-8", "replace") if token in special else token_bytes(token) for token, i in ids.items()
    }
    return ByteLevelCodec(Tables(ranks, id_of_rank, bytes_of, special, contents.add_prefix_space))


def _live_merges(merges: Merges) -> list[str]:
    """Return the tokens that merges can produce, most important first.

    tiktoken joins any two neighbours that together spell a token, BPE only the two its merge names. Both give
    the same if every token's own bytes, merged on their own, come to those two. A merge for which they do not
    can never happen, whatever the text (more important merges have already joined its bytes otherwise), so
    leaving it out is exact.
    """
    rank_of: dict[tuple[str, str], int] = {}
    live = []
    for rank, pair in enumerate(merges):
        token = "".join(pair)
        if _merged(token, rank_of) == list(pair):
            live.append(token)
        rank_of.setdefault(pair, rank)
    return live


def _merged(token: str, rank_of: dict[tuple[str, str], int]) -> list[str]:
    """Return the tokens of one word by byte-level BPE."""
    if len(token) > _LONG_WORD:
        return _merged_long(token, rank_of)
    parts = list(token)
    while len(parts) > 1:
        ranks = [rank_of.get(pair, len(rank_of)) for pair in pairwise(parts)]
        best = min(ranks)
        if best == len(rank_of):
            break
        i = ranks.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _merged_long(token: str, rank_of: dict[tuple[str, str], int]) -> list[str]:
    """Merge in n log n steps: a word of some kB would take minutes in n * n steps."""
    parts = list(token)
    before, after = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
    heap: list[tuple[int, int, tuple[str, str]]] = []

    def consider(i: int) -> None:
        if i >= 0 and after[i] < len(parts) and (rank := rank_of.get(pair := (parts[i], parts[after[i]]))) is not None:
            heapq.heappush(heap, (rank, i, pair))

    for i in range(len(parts)):
        consider(i)
    while heap:
        _, i, pair = heapq.heappop(heap)
        j = after[i]
        if j == len(parts) or (parts[i], parts[j]) != pair:
            continue  # one of the two has been joined with another one since
        parts[i], parts[j], after[i] = pair[0] + pair[1], "", after[j]
        if after[i] < len(parts):
            before[after[i]] = i
        consider(before[i])
        consider(i)
    return [part for part in parts if part]


def _pieces(text: str) -> Iterator[str]:
    """Yield the text, cut inside enormous runs of white space so that its tokens stay the same.

    The pattern takes a run before other text in two steps, all but its last character and then that one, so
    the cut between them is one that it makes itself; but the regex engine keeps a way back for every
    character of the run, and at a million it gives up.
    """
    start = 0
    for run in _BLANKS.finditer(text):
        if run.end() - run.start() > MAX_BLANKS and run.end() < len(text):
            yield text[start : run.end() - 1]
            start = run.end() - 1
    yield text[start:]
