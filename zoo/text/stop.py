"""Decode a stream of ids up to a stop string: complete characters only, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import OptionError
from zoo.text.tokenizer import Tokenizer


class TextStream:
    """Decodes one row's tokens; text that may become part of a character or a stop string is held back.

    The stop string that is complete first ends the text (of two complete at the same character, the longer), however
    the tokens cut them: "c" ends "abcd" before "bcd" does.

    Attributes:
        stopped: whether a stop string came; the text ends before it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        if stop and tokenizer.problem:
            raise OptionError(f"stop strings need text, and {tokenizer.problem}")
        self._decoder = tokenizer.stream()
        self._stop = stop
        self._held = ""
        self.stopped = False

    def feed(self, token_id: int) -> str:
        """Return the text that is certain after this token. An id that the tokenizer does not know reads as U+FFFD."""
        return self._release(self._decoder.feed(token_id))

    def finish(self) -> str:
        """Return the text that was held back, since no token follows."""
        text = self._release(self._decoder.flush()) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        self.stopped = bool(found)
        cut = min(found)[1] if found else len(text) - _overlap(text, self._stop)
        self._held = "" if found else text[cut:]
        return text[:cut]


def _overlap(text: str, stop: Sequence[str]) -> int:
    """Return the number of characters at the end of a text that begin a stop string."""
    lengths = (n for s in stop for n in range(min(len(s) - 1, len(text)), 0, -1) if text.endswith(s[:n]))
    return max(lengths, default=0)
