"""A vocabulary's files: GPT-2's come out byte for byte, others as they were read, damaged ones are named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from zoo.errors import FormatError
from zoo.text.vocabulary import ADDED_NAME, HF_NAMES, OPENAI_NAMES, Vocabulary

SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
SMALL = Vocabulary(b'{"a": 2, "b": 0, "ab": 1, "<|pad|>": 3}', b"#version: 0.2\na b\n", b'{"<x>": 4}')


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def test_package_gives_the_original_files() -> None:
    """OpenAI's two files come out of the packaged one byte for byte, under either pair of names."""
    vocabulary = Vocabulary.gpt2()
    assert {name: hashlib.sha256(data).hexdigest() for name, data in vocabulary.files().items()} == SHA256
    assert list(vocabulary.files(HF_NAMES).values()) == list(vocabulary.files().values())
    assert (vocabulary.n_tokens, len(vocabulary.tokens), len(vocabulary.merges)) == (50257, 50257, 50000)


def test_read_and_embed(tmp_path: Path) -> None:
    """A vocabulary is read under either pair of names, and its JSON gives it back; GPT-2's is its name."""
    assert Vocabulary.read(tmp_path) is None
    custom = SMALL
    for names in (HF_NAMES, OPENAI_NAMES):
        assert Vocabulary.read(write(tmp_path, custom.files(names))) == custom
    assert Vocabulary.from_json(custom.to_json()) == custom
    assert not custom.is_gpt2
    assert Vocabulary.from_json(Vocabulary.gpt2().to_json()) is Vocabulary.gpt2()
    assert len(Vocabulary.gpt2().to_json()) < 100


def test_gpt2_however_spelled(tmp_path: Path) -> None:
    """Other key order and spacing, no header, CRLF and a redundant added_tokens.json are still GPT-2's."""
    gpt2 = Vocabulary.gpt2()
    files = {
        "vocab.json": json.dumps(dict(reversed(gpt2.tokens.items())), ensure_ascii=False, indent=1).encode(),
        "merges.txt": gpt2.vocab_bpe.removeprefix(b"#version: 0.2\n").replace(b"\n", b"\r\n"),
        ADDED_NAME: b'{"<|endoftext|>": 50256}',
    }
    resaved = Vocabulary.read(write(tmp_path, files))
    assert resaved is not None and resaved != gpt2 and resaved.is_gpt2
    assert resaved.files(HF_NAMES) == files
    fewer = Vocabulary(gpt2.encoder_json, gpt2.vocab_bpe.rsplit(b"\n", 2)[0])
    assert not fewer.is_gpt2


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("encoder.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("vocab.bpe", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("encoder.json", b'{"a": 0', "not JSON"),
        ("encoder.json", b"[" * 100_000, "not JSON"),
        ("encoder.json", b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
        ("encoder.json", b"\xff\xfe", "not UTF-8"),
        ("encoder.json", b"[1]", "list"),
        ("encoder.json", b"{}", "no tokens"),
        ("encoder.json", b'{"": 1}', "without any letter"),
        ("encoder.json", b'{"a": -1}', "-1"),
        ("encoder.json", b'{"a": true}', "True"),
        ("encoder.json", b'{"a": 1, "b": 1}', "same id"),
        ("vocab.bpe", b"#version: 0.2\na b\na  b\n", "line 3"),
        ("vocab.bpe", b"#version: 0.2\nabc\n", "line 2"),
        (ADDED_NAME, b'{"<x>": "1"}', "'1'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    """A damaged file is a FormatError when it is read, with the file's name and what is wrong with it."""
    write(tmp_path, SMALL.files() | {name: content})
    with pytest.raises(FormatError, match=problem) as caught:
        Vocabulary.read(tmp_path)
    assert caught.value.path.parent == tmp_path


def test_half_a_vocabulary_is_an_error(tmp_path: Path) -> None:
    """One file without the other is not a vocabulary, and is not passed over."""
    (tmp_path / "vocab.json").write_bytes(b'{"a": 0}')
    with pytest.raises(FormatError, match=r"merges.txt: is missing beside vocab.json"):
        Vocabulary.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"name": "gpt3"}', '{"encoder.json": "{}"}'])
def test_foreign_metadata_is_an_error(text: str) -> None:
    """Text that to_json() did not write is a FormatError naming the file it came from."""
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        Vocabulary.from_json(text, "model.safetensors")
