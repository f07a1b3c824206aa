"""Vocabularies and special tokens on their way from format to format: carried, or left behind with a note."""

import json

import numpy as np
import pytest
import torch
from format_matrix import both_ways, place
from small import small_model
from vocabularies import KINDS

import zoo
from zoo.core.tensors import LazyTensor
from zoo.formats.base import Checkpoint, WriteOptions
from zoo.formats.mapping import to_theirs
from zoo.formats.opening import open_path
from zoo.formats.registry import get_format
from zoo.models.arrays import to_numpy
from zoo.models.gpt2.config import GPTConfig
from zoo.text.special_tokens import SpecialTokens
from zoo.text.tokenizer import Tokenizer
from zoo.text.vocabulary import Vocabulary

SMALL = GPTConfig(vocab_size=600, context_length=11, width=6, n_heads=2, n_layers=1, dropout=0.0)
CASES = {
    "none": None,
    "none, with special tokens": SpecialTokens((5, 9), 3, 7),
    "byte-level BPE": None,
    "byte-level BPE, two files": SpecialTokens((5,), None, 7),
    "byte-level BPE, prefix space": None,
    "byte-level BPE, added tokens": SpecialTokens((5, 9), 3, None),
    "Metaspace BPE": SpecialTokens((5,), 3, 7),
    "WordPiece": None,
    "damaged": SpecialTokens((5,)),
}


def make_vocabulary(directory, case):
    """A vocabulary of one of the cases."""
    if case.startswith("none"):
        return Vocabulary(declared=CASES[case])
    pytest.importorskip("tokenizers")
    kind = "byte-level BPE, two files" if case == "damaged" else case
    found = Vocabulary.read(KINDS[kind](directory))
    content = {**found.content, "merges.txt": b"q x y\n"} if case == "damaged" else found.content
    return Vocabulary(content, CASES[case])


def source(path, vocabulary, config=SMALL):
    """A zoo file of a random model with a vocabulary."""
    tensors = {n: LazyTensor.of(to_numpy(t)) for n, t in small_model(config, dtype=torch.float32).state_dict().items()}
    get_format("zoo").write(path, Checkpoint(path, config, tensors, vocabulary=vocabulary), WriteOptions())
    return path


def facts(path, format):
    """Tokens and special tokens of a checkpoint."""
    vocabulary = open_path(path, format=format)[1].vocabulary
    return vocabulary.tokens, vocabulary.special


@pytest.mark.parametrize("case", CASES)
def test_no_format_writes_what_the_source_has_not(tmp_path, case):
    """Through every pair of formats the tokens stay or go as a whole, special tokens are never new, losses are told."""
    start = source(tmp_path / "start.safetensors", make_vocabulary(tmp_path / "v", case))
    for first in both_ways():
        one = place(tmp_path, first, first.name)
        zoo.convert(start, one, to=first.name)
        tokens, special = facts(one, first.name)
        for second in both_ways():
            two = place(tmp_path, second, f"{first.name}-{second.name}")
            report = zoo.convert(one, two, to=second.name, format=first.name)
            after, special_after = facts(two, second.name)
            assert after in (tokens, {}), (first.name, second.name)
            end = tokens.get("<|endoftext|>")  # which ends texts in formats that name nothing
            assert {*special_after.eos} <= {*special.eos, end}
            assert special_after.bos in (None, special.bos, end) and special_after.pad in (None, special.pad)
            assert report.lossless == ((tokens, special) == (after, special_after)), (first.name, second.name)


def test_files_are_carried_unchanged(tmp_path):
    """Tokenizer files of a Hugging Face directory come out of formats that embed them byte for byte."""
    pytest.importorskip("tokenizers")
    vocabulary = make_vocabulary(tmp_path / "v", "Metaspace BPE")
    start = source(tmp_path / "m.safetensors", vocabulary)
    zoo.convert(start, tmp_path / "hf", to="huggingface")
    zoo.convert(tmp_path / "hf", tmp_path / "m.pt", to="nanogpt")
    zoo.convert(tmp_path / "m.pt", tmp_path / "again", to="huggingface")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "v" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_damaged_vocabulary_does_not_bar_the_weights(tmp_path):
    """Load, convert, hash and verify work, with a note that names the file; only text is refused."""
    pytest.importorskip("tokenizers")
    vocabulary = make_vocabulary(tmp_path / "v", "byte-level BPE, two files")
    zoo.convert(source(tmp_path / "m.safetensors", vocabulary), tmp_path / "hf", to="huggingface")
    (tmp_path / "hf" / "merges.txt").write_text("a b\nx y\nxy z\n")
    report = zoo.convert(tmp_path / "hf", tmp_path / "m.gguf")
    model = zoo.load(tmp_path / "hf")

    assert report.verified and not report.lossless
    assert any("vocab.json: lacks 'ab', which merges.txt makes" in note for note in report.notes)
    assert zoo.content_hash(tmp_path / "hf") == zoo.content_hash(tmp_path / "m.gguf")
    assert "failed" not in {check.status for check in zoo.verify(tmp_path / "hf")}
    assert len(list(zoo.generate(model, [1, 2], max_new_tokens=3, seed=1))) == 3
    with pytest.raises(zoo.errors.OptionError, match="text cannot be used: .*give token ids"):
        zoo.complete(model, "hello")


def hf_directory(path, config, generation=None, tokenizer=None):
    """A Hugging Face directory with these special tokens in its three files."""
    zoo.convert(source(path.with_suffix(".safetensors"), Vocabulary()), path, to="huggingface")
    keys = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(keys | config))
    for name, content in (("generation_config.json", generation), ("tokenizer_config.json", tokenizer)):
        if content:
            (path / name).write_text(json.dumps(content))
    return path


def test_ends_of_texts_are_honoured_and_kept(tmp_path):
    """Several eos ids end a text; generation_config.json comes before config.json; both come back from a conversion."""
    path = hf_directory(
        tmp_path / "hf", {"eos_token_id": 9, "bos_token_id": 3, "pad_token_id": 7}, {"eos_token_id": [5, 8]}
    )
    model = zoo.load(path)
    greedy = [token.id for token in zoo.generate(model, [1], temperature=0, ignore_eos=True, max_new_tokens=10)]
    assert (model.tokenizer.eos_ids, model.tokenizer.start_id) == ((5, 8), 3)
    stops = [greedy[4], greedy[7]]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    tokens = list(zoo.generate(zoo.load(path), [1], temperature=0, max_new_tokens=10))

    first = min(greedy.index(stop) for stop in stops)
    assert [token.id for token in tokens] == greedy[: first + 1]
    assert tokens[-1].finish_reason == "eos"
    zoo.convert(path, tmp_path / "again", to="huggingface")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["eos_token_id"] == stops
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text())["pad_token_id"] == 7


def test_ids_outside_the_rows_are_named(tmp_path):
    """GPT-2's 50256 in the config of a model of 600 tokens is a note, and no format gets it."""
    path = hf_directory(tmp_path / "hf", {"eos_token_id": 50256, "bos_token_id": 50256})
    report = zoo.convert(path, tmp_path / "m.gguf")

    assert "the eos token id 50256 is outside the model's 600 tokens and is left out" in report.notes
    assert open_path(tmp_path / "m.gguf")[1].vocabulary.special == SpecialTokens()


def test_a_format_without_a_vocabulary_is_gpt2s_at_50257_tokens(tmp_path):
    """A file of llm.c with GPT-2's number of tokens is taken for GPT-2's, and says so; others have no text."""
    config = SMALL.replace(vocab_size=50257, width=2, n_heads=1)
    zoo.convert(source(tmp_path / "a.safetensors", Vocabulary(), config), tmp_path / "a.bin")
    zoo.convert(source(tmp_path / "b.safetensors", Vocabulary()), tmp_path / "b.bin")
    gpt2, other = (open_path(tmp_path / name)[1] for name in ("a.bin", "b.bin"))

    assert gpt2.vocabulary.is_gpt2
    assert gpt2.notes == ("the file has no vocabulary; as it has 50,257 tokens, GPT-2's is assumed",)
    assert (other.vocabulary, other.notes) == (Vocabulary(), ())
    assert not open_path(tmp_path / "a.safetensors")[1].vocabulary.content


def padded(path, values):
    """A model of 97 tokens whose logits are all negative, with 4 padding rows of zeros or of other values."""
    config = SMALL.replace(vocab_size=97, vocab_rows=101)
    model = small_model(config, dtype=torch.float32)
    with torch.no_grad():
        model.final_norm.weight.zero_()
        model.final_norm.bias.fill_(1.0)
        model.tok_emb.weight[:97] -= 3.0
        model.tok_emb.weight[97:] = values
    zoo.save(model, path)
    return model


@pytest.mark.parametrize("target", [each.name for each in both_ways() if not each.pads])
@pytest.mark.parametrize("values", [0.0, 0.25])
def test_padding_rows_are_not_tokens(tmp_path, target, values):
    """Formats whose programs would sample padding get vocab_size rows; verified, said, and lossless only of zeros."""
    model = padded(tmp_path / "m.safetensors", values)
    out = place(tmp_path, get_format(target), "out")
    report = zoo.convert(tmp_path / "m.safetensors", out, to=target)

    assert zoo.load(out, format=target).config.vocab_rows == 97
    assert report.verified and report.lossless == (values == 0)
    assert "4 rows of padding, which are not tokens, are left out" in report.notes
    assert zoo.content_hash(tmp_path / "m.safetensors") == zoo.content_hash(out, format=target)
    again = zoo.convert(out, tmp_path / "again.safetensors", format=target)
    assert again.verified
    expected = model.tok_emb.weight[:97]
    assert torch.equal(expected, zoo.load(tmp_path / "again.safetensors").tok_emb.weight)


@pytest.mark.peers
def test_transformers_never_says_a_padding_row(tmp_path):
    """llm.c's file, padded to 128 rows, becomes a directory in which transformers says the tokens that zoo says."""
    transformers = pytest.importorskip("transformers")
    padded(tmp_path / "m.safetensors", 0.0)
    zoo.convert(tmp_path / "m.safetensors", tmp_path / "m.bin")
    zoo.convert(tmp_path / "m.bin", tmp_path / "hf", to="huggingface")
    peer = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf")
    found = peer.generate(torch.tensor([[1, 5]]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    model = zoo.load(tmp_path / "m.bin")
    expected = [token.id for token in zoo.generate(model, [1, 5], temperature=0, max_new_tokens=6)]

    assert float(model(torch.tensor([[1, 5]])).detach()[..., :97].max()) < 0  # zeros would win
    assert found[0, 2:].tolist() == expected
    assert max(expected) < 97


def test_a_nanogpt_file_of_another_program_loses_its_padding(tmp_path):
    """50304 rows are GPT-2's 50257 tokens: so many reach gguf, with GPT-2's vocabulary."""
    config = SMALL.replace(vocab_size=50257, vocab_rows=50304, width=2, n_heads=1, activation="gelu_tanh")
    ours = {n: LazyTensor.of(to_numpy(t)) for n, t in small_model(config, dtype=torch.float32).state_dict().items()}
    found = get_format("nanogpt")
    found.write(tmp_path / "a.pt", Checkpoint(tmp_path, config, to_theirs(found.table, ours, config)), WriteOptions())
    tree = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save(
        tree | {"model_args": {k: v for k, v in tree["model_args"].items() if k != "bias"}}, tmp_path / "ckpt.pt"
    )
    zoo.convert(tmp_path / "ckpt.pt", tmp_path / "m.gguf")
    checkpoint = open_path(tmp_path / "m.gguf")[1]

    assert checkpoint.vocabulary.is_gpt2
    assert checkpoint.config.vocab_rows == 50257
    np.testing.assert_array_equal(ours["tok_emb.weight"].load()[:50257], checkpoint.tensors["token_embd.weight"].load())


def test_a_tokenizer_of_added_tokens_without_rows_converts(tmp_path):
    """A pad token that was added to the tokenizer but not to the model is named, and left out of gguf."""
    gpt2 = Vocabulary.gpt2()
    config = SMALL.replace(vocab_size=50257, width=2, n_heads=1)
    added = Vocabulary({**gpt2.content, "added_tokens.json": b'{"[PAD]": 50257}'})
    zoo.convert(source(tmp_path / "m.safetensors", added, config), tmp_path / "hf", to="huggingface")
    report = zoo.convert(tmp_path / "hf", tmp_path / "m.gguf")

    assert "the token '[PAD]' (50257) has no row in the embedding" in report.notes
    assert open_path(tmp_path / "m.gguf")[1].vocabulary.is_gpt2
    assert Tokenizer(open_path(tmp_path / "hf")[1].vocabulary).encode("[PAD]") == [50257]
