"""Notes on vocabularies: the one assumed for formats that hold none, damage, and parts that are left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zoo.models.gpt2.config import GPTConfig
from zoo.text.gpt2 import END_OF_TEXT, GPT2_N_TOKENS
from zoo.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from zoo.formats.base import Checkpoint


def assume_vocabulary(config: GPTConfig) -> tuple[Vocabulary, list[str]]:
    """Return the vocabulary of a file whose format has no place for one, and a note if it is a guess.

    Nothing but GPT-2's has exactly 50,257 tokens in practice; of other models zoo knows ids only.
    """
    if config.vocab_size != GPT2_N_TOKENS:
        return Vocabulary(), []
    return Vocabulary.gpt2(), ["the file has no vocabulary; as it has 50,257 tokens, GPT-2's is assumed"]


def check_vocabulary(checkpoint: Checkpoint) -> Checkpoint:
    """Leave out special tokens that the model has no row for, and add notes on them and on what cannot be read."""
    vocabulary, n_tokens = checkpoint.vocabulary, checkpoint.config.vocab_size
    special, notes = vocabulary.special.within(n_tokens)
    if notes:
        vocabulary = replace(vocabulary, declared=special)
    if vocabulary.content and vocabulary.problem:
        notes.append(f"text cannot be used: {vocabulary.problem}")
    if vocabulary.n_tokens > checkpoint.config.vocab_rows:
        outside = sorted((i, text) for text, i in vocabulary.tokens.items() if i >= checkpoint.config.vocab_rows)
        i, text = outside[0]
        others = f"; nor have {len(outside) - 1:,} others" if len(outside) > 1 else ""
        notes.append(f"the token {text!r} ({i}) has no row in the embedding{others}")
    return replace(checkpoint, vocabulary=vocabulary, notes=(*checkpoint.notes, *notes)) if notes else checkpoint


def unheld_vocabulary(vocabulary: Vocabulary, reader: str) -> list[str]:
    """Return notes on what a format leaves behind that holds byte-level BPE and <|endoftext|> only.

    Args:
        vocabulary: of the checkpoint.
        reader: the program that reads the format.
    """
    notes = []
    if vocabulary.content and not vocabulary.is_plain:
        notes.append(f"{reader} cannot hold this vocabulary ({describe(vocabulary)}); it is left out")
    end = vocabulary.tokens.get(END_OF_TEXT) if vocabulary.is_plain else None
    return notes + unheld_special(vocabulary, end, reader)


def unheld_special(vocabulary: Vocabulary, end: int | None, reader: str) -> list[str]:
    """Return notes on the special tokens that a format with a single one leaves behind.

    Args:
        vocabulary: of the checkpoint.
        end: that id, None if there is none.
        reader: the program that reads the format.
    """
    special = vocabulary.special
    lost = {
        "eos": [i for i in special.eos if i != end],
        "bos": [i for i in (special.bos,) if i not in (None, end)],
        "pad": [i for i in (special.pad,) if i not in (None, end)],
    }
    named = [f"{role} {', '.join(map(str, found))}" for role, found in lost.items() if found]
    return [f"{reader} does not store these special tokens: {'; '.join(named)}"] if named else []


def describe(vocabulary: Vocabulary) -> str:
    """Return a vocabulary's kind, and its damage if it has any."""
    contents = vocabulary.contents
    if not vocabulary.content:
        return "none"
    if vocabulary.problem:
        return f"damaged: {vocabulary.problem}"
    return f"{contents.kind}, with a space before the text" if contents.add_prefix_space else contents.kind
