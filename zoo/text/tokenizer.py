"""Text to token ids and back: GPT-2's byte-level BPE, or another model's, run by tiktoken.

tiktoken gets the tokens' bytes and the splitting pattern from here; it never looks for files or a network.
"""

from __future__ import annotations

import codecs
import functools
import heapq
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Final, NamedTuple

from zoo.errors import FormatError, OptionError
from zoo.text.vocabulary import ALPHABET, END_OF_TEXT, GPT2_N_TOKENS, Vocabulary, gpt2_tokens, token_bytes

if TYPE_CHECKING:
    from tiktoken import Encoding

PATTERN: Final = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""How GPT-2 splits text into words, in tiktoken's faster spelling (r50k_pat_str) of OpenAI's."""

MAX_BLANKS: Final = 100_000
"""Longest run of white space that tiktoken's regex is given before other text; at a million it gives up."""

# Python's \s and Rust's differ in these four control characters.
_BLANKS: Final = re.compile(r"[^\S\x1c-\x1f]{3,}")
_LONG_WORD: Final = 32
_MAX_SPECIAL: Final = 1 << 18  # letters of all special tokens; they become one regular expression
LOOKS_SPECIAL: Final = re.compile(r"<.+>|\[[A-Z_]+\]")
"""How special tokens are spelled; one that no merge makes is special."""


class Tokenizer:
    """Encodes text to token ids and decodes them. Threads may share one; pickling one sends its vocabulary.

    Special tokens are <|endoftext|>, those of added_tokens.json, and tokens like <pad> or [MASK] that no
    merge makes.

    Attributes:
        vocabulary: the vocabulary given, None for GPT-2's.
        n_vocab: one more than the largest id.
        eos_id: the id of <|endoftext|>, None if the vocabulary has no such token.
        special: special token -> id.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        """Build a tokenizer; GPT-2's is built once and shared.

        Raises:
            FormatError: the vocabulary's merges do not fit its tokens.
        """
        self.vocabulary = vocabulary
        is_gpt2 = vocabulary is None or vocabulary.is_gpt2
        self._tables, self._encoding = _gpt2_parts() if vocabulary is None or is_gpt2 else _parts(vocabulary)
        self.n_vocab = GPT2_N_TOKENS if vocabulary is None else vocabulary.n_tokens
        self.special = self._tables.special
        self.eos_id = self.special.get(END_OF_TEXT)
        # Longest first, so that of <|a|> and <|a|>b the longer one is found where both begin.
        longest_first = sorted(self.special, key=len, reverse=True)
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text.

        A surrogate pair counts as the character it stands for, a lone surrogate (UTF-8 has none) as U+FFFD.

        Args:
            text: of any length; one word of a million letters takes under a second.
            special: whether "<|endoftext|>" and its like in the text become their own token. Say False for
                text that you do not trust to end a document: they are then encoded as any other text.
        """
        ids: list[int] = []
        parts = self._special_pattern.split(text) if special else [text]
        for i, part in enumerate(parts):
            # re.split puts what matched the group at the odd places.
            if i % 2:
                ids.append(self.special[part])
            else:
                for piece in _pieces(part):
                    ids += self._encode_plain(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            OptionError: an id is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of some ids, which may begin or end inside a character.

        Raises:
            OptionError: an id is not in the vocabulary.
        """
        known = self._tables.bytes_of
        try:
            return b"".join([known[index(i)] for i in ids])
        except KeyError as error:
            limit = f"its ids are 0 to {self.n_vocab - 1}"
            raise OptionError(f"token id {error.args[0]} is not in the vocabulary: {limit}") from None

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one at a time."""
        return StreamDecoder(self)

    def _encode_plain(self, text: str) -> list[int]:
        # Encoding.encode_ordinary would be the plain way, but lets a Rust panic through where encode raises.
        ranks = self._encoding.encode(text, disallowed_special=())
        id_of = self._tables.id_of_rank
        return [id_of[rank] for rank in ranks] if id_of else ranks

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Vocabulary | None]]:
        return Tokenizer, (self.vocabulary,)


class StreamDecoder:
    """Decodes ids one at a time into whole characters.

    What feed() gives for every id and then flush(), joined, is what Tokenizer.decode() gives for all of them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """The characters that this id completes; "" while one is incomplete.

        Raises:
            OptionError: the id is not in the vocabulary.
        """
        return self._utf8.decode(self._tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """What is left when no more ids come: "", or U+FFFD for an incomplete character. Then starts anew."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class _Tables(NamedTuple):
    ranks: dict[bytes, int]  # token -> priority, tiktoken's own "ids"
    id_of_rank: list[int]  # empty where every rank is the id, as in GPT-2
    bytes_of: dict[int, bytes]
    special: dict[str, int]

    def encoding(self, name: str) -> Encoding:
        from tiktoken import Encoding

        return Encoding(name, pat_str=PATTERN, mergeable_ranks=self.ranks, special_tokens={})


@functools.lru_cache(maxsize=1)
def _gpt2_parts() -> tuple[_Tables, Encoding]:
    tokens = gpt2_tokens()
    ranks = {token: i for i, token in enumerate(tokens)}
    special = {END_OF_TEXT: len(tokens)}
    bytes_of = dict(enumerate([*tokens, END_OF_TEXT.encode()]))
    tables = _Tables(ranks, [], bytes_of, special)
    return tables, tables.encoding("gpt2")


@functools.lru_cache(maxsize=4)
def _parts(vocabulary: Vocabulary) -> tuple[_Tables, Encoding]:
    ids, path = vocabulary.tokens, vocabulary.paths[0]
    live = _live_merges(vocabulary)
    ranks = {bytes([byte]): rank for rank, (byte, _) in enumerate(ALPHABET)}
    ranks |= {token_bytes(token): rank for rank, token in enumerate(live, start=len(ranks))}
    # As in transformers' GPT2Tokenizer, <|endoftext|> stands for a byte that the vocabulary has no token for.
    id_of_rank = [ids.get(token, ids.get(END_OF_TEXT, -1)) for token in (*(char for _, char in ALPHABET), *live)]
    if -1 in id_of_rank:
        raise FormatError(path, f"has no token for some byte and no {END_OF_TEXT} to stand for it; add either")
    made = set(live)
    unmade = {token: i for token, i in ids.items() if token not in made and LOOKS_SPECIAL.fullmatch(token)}
    special = unmade | {t: i for t, i in ids.items() if t == END_OF_TEXT} | vocabulary.added_tokens
    if sum(map(len, special)) > _MAX_SPECIAL:
        raise FormatError(path, f"has {len(special):,} special tokens, too many for a GPT-2; copy the file again")
    bytes_of = {
        i: token.encode("utf-8", "replace") if token in special else token_bytes(token) for token, i in ids.items()
    }
    tables = _Tables(ranks, id_of_rank, bytes_of, special)
    return tables, tables.encoding("custom")


def _live_merges(vocabulary: Vocabulary) -> list[str]:
    """The tokens that merges really make, most important first.

    tiktoken joins any two neighbours that together spell a token, BPE only the two its merge names. Both give
    the same if every token's own bytes, merged on their own, come to those two. A merge for which they do not
    can never happen, whatever the text (more important merges have already joined its bytes otherwise), so
    leaving it out is exact.
    """
    rank_of: dict[tuple[str, str], int] = {}
    known = {char for _, char in ALPHABET}
    live = []
    encoder_path, merges_path, _ = vocabulary.paths
    for rank, pair in enumerate(vocabulary.merges):
        token = "".join(pair)
        if not known.issuperset(pair):
            raise FormatError(
                merges_path,
                f"merge {' '.join(pair)!r} joins a token that no earlier line makes; copy the file again",
            )
        if token not in vocabulary.tokens:
            raise FormatError(
                encoder_path,
                f"lacks {token!r}, which {merges_path.name} makes; the two do not belong together",
            )
        if _merged(token, rank_of) == list(pair):
            live.append(token)
        known.add(token)
        rank_of.setdefault(pair, rank)
    return live


def _merged(token: str, rank_of: dict[tuple[str, str], int]) -> list[str]:
    """What byte-level BPE makes of one word."""
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
    """The same in n log n steps: a file of some kB may hold a word for which n * n would take minutes."""
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
    """The text, cut inside enormous runs of white space so that its tokens stay the same.

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
