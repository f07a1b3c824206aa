"""Parse the tokenizer files of a checkpoint: the kind of vocabulary, its tokens, merges and added tokens.

The files are those that transformers saves, and they are combined as in transformers: tokenizer.json comes before
the older vocab.json and merges.txt; added_tokens_decoder of tokenizer_config.json, or else added_tokens.json and
special_tokens_map.json, add to either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from zoo.errors import FormatError
from zoo.text.gpt2 import ALPHABET, END_OF_TEXT, GPT2Files, are_gpt2_files, gpt2_tables
from zoo.text.parsing import Merges, check_tokens, parse_json, parse_lines, parse_merges, parse_object

BYTE_LEVEL: Final = "byte-level BPE"
SENTENCEPIECE: Final = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
NAMED: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
BERT: Final = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "SEP", "PAD", "CLS", "MASK")}

Place = Callable[[str], Path]
"""Where a file lies, by its name, for error messages."""


class AddedToken(NamedTuple):
    """A token that is searched in a text before it is split; the fields are those of tokenizer.json."""

    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it matches its own characters at any place."""
        return not (self.lstrip or self.rstrip or self.single_word)


@dataclass
class Contents:
    """A vocabulary, parsed.

    Attributes:
        kind: such as "byte-level BPE", "WordPiece" or "Unigram (Metaspace)"; "" where there is none.
        tokens: token, as the files write it, -> id; added tokens too.
        added: the added and special tokens.
        merges: the pairs of tokens that BPE joins, most important first.
        add_prefix_space: whether text that does not begin with a space gets one.
        settings: of tokenizer_config.json.
        problem: what is damaged, "" if nothing is.
        checked: whether tokens and merges are known to fit each other.
    """

    kind: str = ""
    tokens: dict[str, int] = field(default_factory=dict)
    added: dict[str, AddedToken] = field(default_factory=dict)
    merges: Merges = ()
    add_prefix_space: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    checked: bool = False


def read_contents(files: Mapping[str, bytes], place: Place) -> Contents:
    """Parse the files; damage is described in the result's `problem`."""
    contents = Contents()
    try:
        _read_tokens(contents, files, place)
        _read_settings(contents, files, place)
        _check(contents, place)
    except FormatError as error:
        contents.problem = str(error)
    return contents


def _read_tokens(contents: Contents, files: Mapping[str, bytes], place: Place) -> None:
    if "tokenizer.json" in files:
        _read_tokenizer_json(contents, parse_object(files["tokenizer.json"], place("tokenizer.json")), place)
    elif "vocab.json" in files or "merges.txt" in files:
        contents.kind = BYTE_LEVEL
        for missing, other in (("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")):
            if missing not in files:
                raise FormatError(place(missing), f"is missing beside {place(other).name}; put both there or neither")
        is_ours = isinstance(files, GPT2Files)  # which are not even made
        if is_ours or are_gpt2_files(files["vocab.json"], files["merges.txt"]):  # parsing takes a tenth of a second
            tokens, contents.merges = gpt2_tables()
            contents.tokens, contents.checked = dict(tokens), True
            return
        file = place("vocab.json")
        contents.tokens = check_tokens(parse_json(files["vocab.json"], file), file)
        if not contents.tokens:
            raise FormatError(file, "holds no tokens; copy the file again")
        contents.merges = parse_merges(files["merges.txt"], place("merges.txt"))
    elif "vocab.txt" in files:
        contents.kind = "WordPiece"
        contents.tokens = parse_lines(files["vocab.txt"], place("vocab.txt"))
    elif found := [name for name in SENTENCEPIECE if name in files]:
        contents.kind = f"SentencePiece, as {found[0]} only"


def _read_tokenizer_json(contents: Contents, theirs: dict[str, Any], place: Place) -> None:
    file = place("tokenizer.json")
    model: Any = theirs.get("model")
    try:
        vocab = model["vocab"]
        tokens = {entry[0]: i for i, entry in enumerate(vocab)} if isinstance(vocab, list) else vocab
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or []]
        contents.merges = tuple((left, right) for left, right in merges)
        contents.added = {
            token["content"]: AddedToken(token["id"], *(bool(token.get(name)) for name in AddedToken._fields[1:]))
            for token in theirs.get("added_tokens") or []
        }
        added = {text: token.id for text, token in contents.added.items()}
        contents.tokens = check_tokens(tokens, file) | check_tokens(added, file)
        contents.kind = _kind(theirs, contents.tokens)
        if contents.kind == BYTE_LEVEL:
            contents.add_prefix_space = bool(theirs["pre_tokenizer"].get("add_prefix_space", True))
    except FormatError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"is not a tokenizer of the tokenizers package ({error!r:.100})"
        raise FormatError(file, f"{problem}; copy it again") from error


def _kind(theirs: dict[str, Any], tokens: Mapping[str, int]) -> str:
    """Name the kind of a tokenizer.json: BYTE_LEVEL only where it is exactly what GPT-2 does."""
    model, splitting = theirs["model"], theirs.get("pre_tokenizer") or {}
    guess = "BPE" if "merges" in model else "Unigram" if isinstance(model["vocab"], list) else "WordPiece"
    name = model.get("type", guess)
    extras = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    is_plain = (
        name == "BPE"
        and not any(model.get(key) for key in extras)
        and not (model.get("unk_token") and not tokens.keys() >= {char for _, char in ALPHABET})
        and splitting.get("type") == "ByteLevel"
        and splitting.get("use_regex", True)
        and not theirs.get("normalizer")
        and (theirs.get("decoder") or {}).get("type") == "ByteLevel"
    )
    if is_plain:
        return BYTE_LEVEL
    steps = splitting.get("pretokenizers", [splitting])
    how = "+".join(str(step.get("type")) for step in steps if isinstance(step, dict) and step.get("type"))
    return f"{name} ({how})" if how else str(name)


def _read_settings(contents: Contents, files: Mapping[str, bytes], place: Place) -> None:
    """Read the tokens that are added to those of the model, and the special ones."""

    def read(name: str) -> dict[str, Any]:
        return parse_object(files[name], place(name)) if name in files else {}

    settings = contents.settings = read("tokenizer_config.json")
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for i, token in sorted(decoder.items(), key=lambda item: int(item[0]) if item[0].isdecimal() else -1):
            if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not i.isdecimal():
                raise FormatError(place("tokenizer_config.json"), f"its added token {i!r} is not one; copy it again")
            flags = (bool(token.get(name, False)) for name in AddedToken._fields[1:])
            _add(contents, token["content"], AddedToken(int(i), *flags))
    else:
        settings |= {key: value for key, value in read("special_tokens_map.json").items() if key not in settings}
        file = place("added_tokens.json")
        for text, i in sorted(check_tokens(read("added_tokens.json"), file).items(), key=lambda item: item[1]):
            _add(contents, text, AddedToken(i))
    if contents.kind == BYTE_LEVEL and ("tokenizer.json" not in files or _is_gpt2_class(settings)):
        contents.add_prefix_space = bool(settings.get("add_prefix_space", False))
    for text, token in _named(contents, files):
        if text in contents.tokens:
            _add(contents, text, token._replace(id=contents.tokens[text]))
        elif contents.tokens:
            _add(contents, text, token._replace(id=max(contents.tokens.values()) + 1))
    if contents.kind == BYTE_LEVEL and not all(token.is_plain for token in contents.added.values()):
        contents.kind = f"{BYTE_LEVEL} (added tokens that strip spaces)"


def _is_gpt2_class(settings: Mapping[str, Any]) -> bool:
    """Return whether transformers uses its class for GPT-2, which has its own add_prefix_space."""
    return str(settings.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast") == "GPT2Tokenizer"


def _named(contents: Contents, files: Mapping[str, bytes]) -> Iterator[tuple[str, AddedToken]]:
    """Yield the tokens that have a role, as transformers knows them; their ids are not known yet."""
    settings = contents.settings
    if "tokenizer.json" not in files and "vocab.txt" in files:
        settings = {**BERT, **settings}
    for value in (settings.get(name) for name in NAMED):
        if isinstance(value, str) and value:
            yield value, AddedToken(-1)
        elif isinstance(value, dict) and isinstance(value.get("content"), str):
            yield value["content"], AddedToken(-1, True, *(bool(value.get(n)) for n in AddedToken._fields[2:]))
    for several in (settings.get(name) for name in _LISTS):
        values = several.values() if isinstance(several, dict) else several if isinstance(several, list) else []
        yield from ((value, AddedToken(-1)) for value in values if isinstance(value, str) and value)
    if END_OF_TEXT in contents.tokens and contents.kind == BYTE_LEVEL:
        yield END_OF_TEXT, AddedToken(-1)


def _add(contents: Contents, text: str, token: AddedToken) -> None:
    if text and text not in contents.added:
        contents.added[text] = token
        contents.tokens[text] = token.id


def _check(contents: Contents, place: Place) -> None:
    """Check that ids are unique, and that merges and tokens fit each other.

    Raises:
        FormatError: they do not.
    """
    tokens = contents.tokens
    if len(set(tokens.values())) != len(tokens) and contents.kind.startswith(BYTE_LEVEL):
        raise FormatError(place("vocab.json"), "gives two tokens the same id; correct it so that each has its own")
    if contents.kind != BYTE_LEVEL or contents.checked:
        return
    known = {char for _, char in ALPHABET}
    for pair in contents.merges:
        token = "".join(pair)
        if not known.issuperset(pair):
            problem = f"merge {' '.join(pair)!r} joins a token that no earlier line makes; copy the file again"
            raise FormatError(place("merges.txt"), problem)
        if token not in tokens:
            problem = f"lacks {token!r}, which {place('merges.txt').name} makes; the two do not belong together"
            raise FormatError(place("vocab.json"), problem)
        known.add(token)
