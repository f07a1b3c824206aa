"""Text to token ids and back, with GPT-2's vocabulary or that of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from operator import index

from zoo.errors import OptionError
from zoo.text.byte_level import ByteLevelCodec, gpt2_codec, make_codec
from zoo.text.gpt2 import END_OF_TEXT, GPT2_N_TOKENS
from zoo.text.other_kinds import OtherCodec
from zoo.text.stream_decoder import BytesStream, StreamDecoder, WindowStream
from zoo.text.vocabulary import GPT2_SPECIAL, Vocabulary


class Tokenizer:
    """Encodes text to token ids and decodes them. Threads may share one; pickling one sends its vocabulary.

    A model whose vocabulary is missing, damaged or of an unknown kind has a tokenizer, too, which knows the special ids
    and refuses text.

    Attributes:
        n_vocab: one more than the largest id.
        eos_ids: the ids that end a text.
        eos_id: the first of them, which stands between documents; None if there is none.
        start_id: the id that an empty prompt begins with: bos or else eos_id.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        """Prepare a tokenizer; tables are built on the first use of text.

        Args:
            vocabulary: of a checkpoint; None means GPT-2's.
        """
        self._given = vocabulary
        special = GPT2_SPECIAL if vocabulary is None else vocabulary.special
        self.n_vocab = GPT2_N_TOKENS if vocabulary is None else vocabulary.n_tokens
        self.eos_ids = special.eos
        self.eos_id = special.eos[0] if special.eos else None
        self.start_id = self.eos_id if special.bos is None else special.bos

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary; GPT-2's own if none was given."""
        return self._given or Vocabulary.gpt2()

    @property
    def special(self) -> dict[str, int]:
        """The added and special tokens -> id."""
        if self._given is None or self._given.is_gpt2:
            return {END_OF_TEXT: GPT2_N_TOKENS - 1}
        return {text: token.id for text, token in self._given.contents.added.items()}

    @cached_property
    def problem(self) -> str:
        """Why text cannot be encoded and decoded, as a sentence with a way out; "" if it can."""
        try:
            _ = self._codec
        except OptionError as error:
            return str(error)
        return ""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of a text.

        A surrogate pair counts as the character it stands for, a lone surrogate (UTF-8 has none) as U+FFFD.

        Args:
            text: of any length; one word of a million letters takes under a second.
            special: whether "<|endoftext|>" and its like in the text become their own token. Say False for
                text that you do not trust to end a document: they are then encoded as any other text.

        Raises:
            OptionError: the model has no vocabulary that zoo can read, or the vocabulary has no token for a byte.
        """
        return self._codec.encode(text, special=special)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of some ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            OptionError: an id is not in the vocabulary, or the model has no vocabulary that zoo can read.
        """
        codec, ids = self._codec, [index(i) for i in ids]
        with self._known_ids():
            if isinstance(codec, OtherCodec):
                return codec.decode(ids)
            return b"".join(map(codec.token_bytes, ids)).decode("utf-8", "replace")

    def piece(self, token_id: int) -> str:
        """Return the text of one token; bytes that are a part of a character appear as \\x followed by two digits.

        Raises:
            OptionError: as decode.
        """
        codec = self._codec
        if isinstance(codec, OtherCodec):
            return self.decode([token_id])
        with self._known_ids():
            return codec.token_bytes(index(token_id)).decode("utf-8", "backslashreplace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token, which may be a part of a character.

        Raises:
            OptionError: as decode; or the vocabulary is not byte-level BPE.
        """
        codec = self._codec
        if isinstance(codec, OtherCodec):
            raise OptionError("the tokens of this vocabulary are pieces of text, not of bytes; use decode")
        with self._known_ids():
            return codec.token_bytes(index(token_id))

    def stream(self) -> StreamDecoder:
        """Return a decoder for a stream of ids; it returns no text for a model without text."""
        if self.problem:
            return StreamDecoder()
        codec = self._codec
        return WindowStream(codec.decode) if isinstance(codec, OtherCodec) else BytesStream(codec.token_bytes)

    @contextmanager
    def _known_ids(self) -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            limit = f"its ids are 0 to {self.n_vocab - 1}"
            raise OptionError(f"token id {error.args[0]} is not in the vocabulary: {limit}") from None

    @cached_property
    def _codec(self) -> ByteLevelCodec | OtherCodec:
        vocabulary = self._given
        return gpt2_codec() if vocabulary is None else _codec(vocabulary)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Vocabulary | None]]:
        return Tokenizer, (self._given,)


def _codec(vocabulary: Vocabulary) -> ByteLevelCodec | OtherCodec:
    """Return the codec of a vocabulary.

    Raises:
        OptionError: zoo cannot encode with it.
    """
    if vocabulary.problem:
        raise OptionError(f"text cannot be used: {vocabulary.problem}; give token ids")
    if vocabulary.is_gpt2:
        return gpt2_codec()
    return make_codec(vocabulary.contents) if vocabulary.reads_itself else OtherCodec(vocabulary)
