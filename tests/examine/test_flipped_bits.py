"""A bit that flips in a file is noticed, whatever the format."""

from random import Random

import pytest
import torch
from small import small_model

import zoo
from zoo.errors import CorruptFile, FormatError, OptionError
from zoo.examine.verify import verify_path
from zoo.formats.content_hash import hash_path
from zoo.formats.opening import open_path

TINY = zoo.GPTConfig(vocab_size=5, context_length=3, width=4, n_heads=2, n_layers=1)
WIDE = TINY.replace(width=32, inner_width=64)
CASES = {
    "zoo": ("m.safetensors", None),
    "int4": ("m.safetensors", "int4"),
    "int8": ("m.safetensors", "int8"),
    "huggingface": ("hf", None),
    "openai": ("tf", None),
    "nanogpt": ("m.pt", None),
    "mingpt": ("m.pt", None),
    "megatron": ("m.pt", None),
    "book": ("m.pth", None),
    "gguf": ("m.gguf", None),
    "q5_0": ("m.gguf", "q5_0"),
    "flax": ("flax", None),
    "keras-hub": ("keras", None),
}
"""Every format that zoo reads, writes and records a hash in: the output's name, and a way of quantising."""


def written(tmp_path, name):
    """A tiny checkpoint of a format, or of a way of quantising."""
    out, encoding = CASES[name]
    config = WIDE if encoding else TINY
    zoo.save(small_model(config, dtype=torch.float32), tmp_path / "source.safetensors")
    to = {"int4": "zoo", "int8": "zoo", "q5_0": "gguf"}.get(name, name)
    zoo.convert(tmp_path / "source.safetensors", tmp_path / out, to=to, dtype=encoding)
    return tmp_path / out


def looked_at(path):
    """Status of the check of the content, "failed" if an earlier one failed."""
    checks = verify_path(path, run=False)
    if any(check.status == "failed" for check in checks):
        return "failed"
    return {check.name: check.status for check in checks}["content"]


def flips(path, random, most):
    """Flip one bit of each byte in turn, or of as many of them; the file is as it was in the end."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        content = file.read_bytes()
        for at in sorted(random.sample(range(len(content)), min(most, len(content)))):
            changed = bytearray(content)
            changed[at] ^= 1 << random.randrange(8)
            file.unlink()  # what the last reading mapped stays as it is
            file.write_bytes(changed)
            yield file.name, at
        file.unlink()
        file.write_bytes(content)


def check_flips(tmp_path, name, most):
    """A failure, or the same model, or verify says that no hash is recorded."""
    if name == "keras-hub":
        pytest.importorskip("h5py")
    path = written(tmp_path, name)
    value = hash_path(path)
    assert "ok" == looked_at(path)
    passed, unrecorded = [], 0
    for file, at in flips(path, Random(name), most):
        status = looked_at(path)
        if status == "ok" and hash_path(path) != value:
            passed.append((file, at))
        unrecorded += status == "skipped"
    assert [] == passed
    assert unrecorded < 60  # the names of the record and of its key


@pytest.mark.parametrize("name", CASES)
def test_no_flip_changes_the_model_and_passes_as_checked(tmp_path, name):
    """Bits of some bytes: each flip is a failure, or leaves the model as it was, or takes the record's name."""
    check_flips(tmp_path, name, 150)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_flip_of_any_byte_passes(tmp_path, name):
    """The same for one bit of every byte of every file."""
    check_flips(tmp_path, name, 1 << 30)


@pytest.mark.parametrize("name", CASES)
def test_convert_and_load_notice_too(tmp_path, name):
    """A changed value in the middle of the embedding is refused by convert and zoo.load(check=True)."""
    if name == "keras-hub":
        pytest.importorskip("h5py")
    path = written(tmp_path, name)
    assert zoo.load(path, check=True).config == open_path(path)[1].config
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    file = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    at = middle_of_weights(path, content)
    content[at] ^= 0x40
    file.write_bytes(content)

    with pytest.raises(CorruptFile, match="values that it was written with|checksum"):
        zoo.convert(path, tmp_path / "again.safetensors")
    with pytest.raises(CorruptFile, match="values that it was written with|checksum"):
        zoo.load(path, check=True)


def middle_of_weights(path, content):
    """Where some bytes of the last bias of the first block are, which every format stores as they are."""
    _, checkpoint = open_path(path)
    last = list(checkpoint.tensors)[-1]
    at = content.index(checkpoint.tensors[last].load().tobytes())
    return at + 1


def test_a_changed_file_can_still_be_converted(tmp_path):
    """--no-verify converts what does not have its recorded hash, and load without check takes it."""
    path = written(tmp_path, "zoo")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)

    zoo.convert(path, tmp_path / "again.safetensors", verify=False)
    assert hash_path(path) == hash_path(tmp_path / "again.safetensors")
    assert zoo.load(path).config == TINY


def test_what_has_no_record_cannot_be_checked(tmp_path):
    """llm.c has no room for a record: verify says so, and load with check refuses."""
    zoo.save(small_model(TINY.replace(inner_width=16), dtype=torch.float32), tmp_path / "m.bin", to="llm.c")

    assert "skipped" == looked_at(tmp_path / "m.bin")
    with pytest.raises(FormatError, match="records no content hash"):
        zoo.load(tmp_path / "m.bin", check=True)


@pytest.mark.parametrize(("name", "words"), [("zoo", None), ("openai", "CRC-32C"), ("nanogpt", "CRC-32")])
def test_only_checksums_that_exist_are_named(tmp_path, name, words):
    """The sentence on values names the container's checksums, and says nothing of any where there are none."""
    (values,) = (check for check in verify_path(written(tmp_path, name), run=False) if check.name == "values")
    assert ("checksum" in values.detail) == (words is not None)
    assert words is None or words in values.detail


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", ""])
def test_a_device_that_is_not_there_is_a_sentence(tmp_path, device):
    """Loading onto it says so."""
    path = written(tmp_path, "zoo")
    with pytest.raises(OptionError, match="is not available on this machine"):
        zoo.load(path, device=device)
