"""Decoders for a stream of ids, which return characters as soon as they are complete."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class StreamDecoder:
    """Decodes ids one at a time. This base class is for models without text and returns none.

    The joined results of feed() for every id and of flush() are the text that Tokenizer.decode() returns, except
    that an id outside the vocabulary becomes U+FFFD.
    """

    def feed(self, token_id: int) -> str:
        """Return the characters that this id completes; "" while one is incomplete."""
        return ""

    def flush(self) -> str:
        """Return the rest after the last id: "", or U+FFFD for an incomplete character. Then reset the decoder."""
        return ""


class BytesStream(StreamDecoder):
    """Decodes tokens that are bytes."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        try:
            token = self._token_bytes(token_id)
        except KeyError:
            return self.flush() + _REPLACEMENT
        return self._utf8.decode(token)

    def flush(self) -> str:
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class WindowStream(StreamDecoder):
    """Decodes tokens whose text depends on earlier ones, by decoding a window of the last few each time."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._n_settled = 0  # ids of the window whose text has been given

    def feed(self, token_id: int) -> str:
        try:
            text = self._pending(token_id)
        except KeyError:
            return self.flush() + _REPLACEMENT
        if not text or text.endswith(_REPLACEMENT):
            return ""
        self._ids, self._n_settled = self._ids[self._n_settled :], len(self._ids) - self._n_settled
        return text

    def flush(self) -> str:
        rest = self._pending() if self._ids else ""
        self._ids, self._n_settled = [], 0
        return rest

    def _pending(self, *more: int) -> str:
        """Return the text of the pending ids followed by more ids."""
        before, after = self._decode(self._ids[: self._n_settled]), self._decode([*self._ids, *more])
        self._ids += more
        return after[len(before) :]
