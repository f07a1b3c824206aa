"""Every kind of vocabulary against transformers, and refusals of what zoo cannot read."""

import json
import pickle
import re
import sys

import pytest
from vocabularies import KINDS, odd_strings

from zoo.errors import OptionError
from zoo.text.other_kinds import OtherCodec
from zoo.text.tokenizer import Tokenizer
from zoo.text.vocabulary import Vocabulary

TEXTS = odd_strings()
SELF = {"byte-level BPE", "byte-level BPE, two files", "byte-level BPE, prefix space"}


def peer_of(directory):
    """Transformers' tokenizer for a GPT-2 with these files."""
    transformers = pytest.importorskip("transformers")
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_those_of_transformers(tmp_path, kind):
    """500 odd strings of six scripts have the same ids, and the ids the same text; a stream gives that text too."""
    directory = KINDS[kind](tmp_path / "v")
    ours, peer = Tokenizer(Vocabulary.read(directory)), peer_of(directory)
    assert "" == ours.problem
    assert isinstance(ours._codec, OtherCodec) == (kind not in SELF)
    for text in TEXTS:
        ids = peer(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text)
        expected = peer.decode(ids, skip_special_tokens=False)
        assert expected == ours.decode(ids)
        stream = ours.stream()
        assert expected == "".join(map(stream.feed, ids)) + stream.flush()
    assert len(peer) == ours.n_vocab


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_any_ids_decode_as_in_transformers(tmp_path, kind):
    """Ids in an order that no text gives, half characters among them, have transformers' text, streamed too."""
    directory = KINDS[kind](tmp_path / "v")
    ours, peer = Tokenizer(Vocabulary.read(directory)), peer_of(directory)
    for start in range(40):
        ids = [(start * 37 + 61 * i) % ours.n_vocab for i in range(9)]
        expected = peer.decode(ids, skip_special_tokens=False)
        stream = ours.stream()
        assert expected == ours.decode(ids) == "".join(map(stream.feed, ids)) + stream.flush()


@pytest.mark.parametrize("kind", ["Metaspace BPE", "WordPiece", "byte-level BPE, added tokens"])
def test_special_tokens_may_be_plain_text(tmp_path, kind):
    """With special=False a special token in the text is spelled out, in any thread and in a pickled tokenizer."""
    directory = KINDS[kind](tmp_path / "v")
    tokenizer = pickle.loads(pickle.dumps(Tokenizer(Vocabulary.read(directory))))
    token = max((text for text, added in tokenizer.vocabulary.contents.added.items() if added.special), key=len)
    found = tokenizer.vocabulary.tokens[token]

    assert found in tokenizer.encode(f"a{token}")
    assert found not in tokenizer.encode(f"a{token}", special=False)


def test_without_the_package_text_is_refused_and_the_way_out_is_named(tmp_path, monkeypatch):
    """The error names the kind, token ids and the extra to install; streams give no text."""
    directory = KINDS["WordPiece"](tmp_path / "v")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer = Tokenizer(Vocabulary.read(directory))

    message = "this model's vocabulary (WordPiece) is of a kind zoo cannot read; give token ids, or install "
    with pytest.raises(OptionError, match=re.escape(message) + r"gpt2-zoo\[tokenizers\]"):
        tokenizer.encode("hello")
    assert "" == tokenizer.stream().feed(5)


def test_a_sentencepiece_model_alone_is_refused(tmp_path):
    """A model file needs its own library; the way out is a tokenizer.json."""
    pytest.importorskip("tokenizers")
    (tmp_path / "spiece.model").write_bytes(b"\x0a\x05model")
    with pytest.raises(OptionError, match="SentencePiece, as spiece.model only.*save_pretrained"):
        Tokenizer(Vocabulary.read(tmp_path)).encode("hello")


def test_no_vocabulary_is_not_gpt2s():
    """A model without a vocabulary has no text, and says so."""
    tokenizer = Tokenizer(Vocabulary())
    for use in (lambda: tokenizer.encode("hello"), lambda: tokenizer.decode([1])):
        with pytest.raises(OptionError, match="the checkpoint has no vocabulary; give token ids"):
            use()
    assert (tokenizer.eos_ids, tokenizer.eos_id, tokenizer.start_id) == ((), None, None)


def test_a_newer_tokenizer_json_wins_over_older_files(tmp_path):
    """The tokens that were added since are there, also in the pair of files made for formats that hold no more."""
    directory = KINDS["byte-level BPE, added tokens"](tmp_path / "v")
    older = Vocabulary.byte_level((directory / "vocab.json").read_bytes(), (directory / "merges.txt").read_bytes())
    newer = Vocabulary.read(directory)

    assert newer.n_tokens == older.n_tokens + 2
    assert newer.contents.added["<new>"].lstrip


@pytest.mark.parametrize("change", [b"\xef\xbb\xbf", b"\r\n", b""])
def test_byte_order_marks_line_ends_and_a_missing_version_are_accepted(change):
    """Files from Windows and merges without their first line are the same vocabulary."""
    gpt2 = Vocabulary.gpt2()
    vocab, merges = gpt2.pair().values()
    if change == b"\r\n":
        merges = merges.replace(b"\n", change)
    elif change:
        vocab, merges = change + vocab, change + merges
    else:
        merges = merges.split(b"\n", 1)[1]

    assert Vocabulary.byte_level(vocab, merges).is_gpt2
