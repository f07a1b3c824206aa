"""Vocabularies of every other kind (Unigram, WordPiece, Metaspace, ...), run by the optional package tokenizers.

The tokenizer is built as transformers builds it, but puts no tokens around a whole text ([CLS] and [SEP] of BERT's): a
text to be continued must not end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.errors import OptionError
from zoo.text.vocabulary_files import BERT, BYTE_LEVEL

if TYPE_CHECKING:
    from zoo.text.vocabulary import Vocabulary

# PreTrainedTokenizerBase.clean_up_tokenization of transformers.
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class OtherCodec:
    """Encodes and decodes through the package tokenizers."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Build the tokenizer.

        Raises:
            OptionError: the package is not installed, or cannot read the files.
        """
        kind, settings = vocabulary.contents.kind, vocabulary.contents.settings
        self._kind = kind
        self._known = set(vocabulary.tokens.values())
        self._cleans_up = bool(settings.get("clean_up_tokenization_spaces")) and "BPE" not in kind
        # Whether special tokens are found is a setting of the tokenizer, not of a call: threads share both.
        self._with_special, self._plain = _build(vocabulary), _build(vocabulary)
        self._plain.encode_special_tokens = True

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the ids of a text; a lone surrogate becomes U+FFFD.

        Raises:
            OptionError: a part of the text has no token, and the vocabulary none for unknown ones.
        """
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        tokenizer = self._with_special if special else self._plain
        try:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)
        except Exception as error:  # the package raises plain Exceptions
            problem = f"the text has a part for which this model's vocabulary ({self._kind}) has no token"
            raise OptionError(f"{problem}; leave it out ({error})") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids.

        Raises:
            KeyError: an id is not in the vocabulary.
        """
        for i in ids:
            if i not in self._known:
                raise KeyError(i)
        text = str(self._with_special.decode(ids, skip_special_tokens=False))
        if self._cleans_up:
            for found in _CLEAN_UP:
                text = text.replace(found, found.strip())
        return text


def _build(vocabulary: Vocabulary) -> Any:
    """Build a tokenizers.Tokenizer from the files of a checkpoint."""
    kind = vocabulary.contents.kind
    try:
        library = import_module("tokenizers")
    except ImportError as error:
        raise _refused(kind, "give token ids, or install gpt2-zoo[tokenizers]") from error
    try:
        tokenizer = _model(library, vocabulary)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        known = {str(token.content) for token in tokenizer.get_added_tokens_decoder().values()}
        for text, token in vocabulary.contents.added.items():
            if text not in known:
                flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
                added = library.AddedToken(text, normalized=token.normalized, special=token.special, **flags)
                (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([added])
    except OptionError:
        raise
    except Exception as error:  # the package raises plain Exceptions
        raise _refused(kind, f"give token ids (tokenizers says: {error})") from error
    return tokenizer


def _model(library: Any, vocabulary: Vocabulary) -> Any:
    contents, content, settings = vocabulary.contents, vocabulary.content, vocabulary.contents.settings
    if "tokenizer.json" in content:
        tokenizer = library.Tokenizer.from_str(content["tokenizer.json"].decode("utf-8-sig"))
        if contents.kind.startswith(BYTE_LEVEL) and tokenizer.pre_tokenizer is not None:
            tokenizer.pre_tokenizer.add_prefix_space = contents.add_prefix_space
        return tokenizer
    if contents.kind.startswith(BYTE_LEVEL):
        plain = {text: i for text, i in contents.tokens.items() if text not in contents.added}
        inside = {text: i for text, i in contents.tokens.items() if i <= max(plain.values())}
        tokenizer = library.Tokenizer(library.models.BPE(vocab=inside, merges=list(contents.merges)))
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=contents.add_prefix_space)
        tokenizer.decoder = library.decoders.ByteLevel()
        return tokenizer
    if "vocab.txt" in content:
        return _bert(library, contents.tokens, settings)
    hint = "give token ids, or save the tokenizer as tokenizer.json with transformers' save_pretrained"
    raise _refused(contents.kind, hint)


def _bert(library: Any, tokens: Mapping[str, int], settings: Mapping[str, Any]) -> Any:
    """Build BertTokenizer of transformers, which Chinese GPT-2s use."""
    unknown = settings.get("unk_token") or BERT["unk_token"]
    unknown = unknown["content"] if isinstance(unknown, dict) else unknown
    tokenizer = library.Tokenizer(library.models.WordPiece(dict(tokens), unk_token=unknown))
    tokenizer.normalizer = library.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece(prefix="##")
    return tokenizer


def _refused(kind: str, hint: str) -> OptionError:
    return OptionError(f"this model's vocabulary ({kind}) is of a kind zoo cannot read; {hint}")
