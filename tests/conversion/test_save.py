"""Saving a model from memory: the same plan, checks and report as a conversion."""

import numpy as np
import pytest
import torch

import zoo
from zoo.errors import CannotHold, OptionError, OutputError, VerificationFailed
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig

CONFIG = GPTConfig(vocab_size=97, context_length=13, width=30, n_heads=5, n_layers=2)


@pytest.mark.parametrize(("dtype", "to", "name"), [("float64", "llm.c", "a.bin"), ("float64", "gguf", "a.gguf")])
def test_a_dtype_that_the_format_lacks_is_refused(tmp_path, dtype, to, name):
    """Nothing is written under a header of another dtype."""
    model = zoo.create(CONFIG, seed=3).to(getattr(torch, dtype))

    with pytest.raises(CannotHold, match=f"does not store {dtype}"):
        zoo.save(model, tmp_path / name, to=to)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_saved_as_its_file_would_be_converted(tmp_path):
    """Saving to a format gives the tensors that converting the model's zoo file to it gives, cast included."""
    model = zoo.create(CONFIG, seed=5)
    zoo.save(model, tmp_path / "m.safetensors")
    zoo.save(model, tmp_path / "saved.bin", to="llm.c", dtype="bfloat16")
    zoo.convert(tmp_path / "m.safetensors", tmp_path / "converted.bin", to="llm.c", dtype="bfloat16")

    assert (tmp_path / "saved.bin").read_bytes() == (tmp_path / "converted.bin").read_bytes()
    assert torch.equal(model.tok_emb.weight.bfloat16(), zoo.load(tmp_path / "saved.bin").tok_emb.weight)


def test_the_report_has_the_content_hash(tmp_path):
    """A saved file records the hash of its content, as a converted one does, and no files that it came from."""
    report = zoo.save(zoo.create(CONFIG, seed=5), tmp_path / "m.safetensors")

    assert (report.verified, report.lossless, report.target_format) == (True, True, "zoo")
    assert report.provenance == dict(open_path(tmp_path / "m.safetensors")[1].provenance)
    assert report.provenance == {
        "zoo_version": zoo.__version__,
        "content_blake3": zoo.content_hash(tmp_path / "m.safetensors"),
    }


def test_what_does_not_read_back_is_not_left_behind(tmp_path, monkeypatch):
    """A writer that changes a value is found out, unless verify=False."""
    writer = type(zoo.get_format("zoo"))
    write = writer.write

    def damage(self, path, checkpoint, options):
        write(self, path, checkpoint, options)
        data = bytearray(path.read_bytes())
        data[-3] ^= 16
        path.write_bytes(data)

    monkeypatch.setattr(writer, "write", damage)
    model = zoo.create(CONFIG, seed=5)
    with pytest.raises(VerificationFailed):
        zoo.save(model, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []
    zoo.save(model, tmp_path / "m.safetensors", verify=False)


def test_a_directory_format_is_not_written_under_a_files_name(tmp_path):
    """The suffix of a file format in the name of a directory is a mistake of one of the two."""
    model = zoo.create(CONFIG, seed=5)
    with pytest.raises(OptionError, match="huggingface is written as a directory"):
        zoo.save(model, tmp_path / "x.safetensors", to="huggingface")
    zoo.save(model, tmp_path / "gpt2-v1.5", to="huggingface")


def test_an_output_that_exists_is_kept(tmp_path):
    """Without force nothing is replaced; with it the new model is there."""
    first, second = (zoo.create(CONFIG, seed=seed) for seed in (1, 2))
    zoo.save(first, tmp_path / "m.safetensors")
    with pytest.raises(OutputError, match="force=True"):
        zoo.save(second, tmp_path / "m.safetensors")
    zoo.save(second, tmp_path / "m.safetensors", force=True)

    found = open_path(tmp_path / "m.safetensors")[1].tensors["tok_emb.weight"].load()
    assert np.array_equal(second.tok_emb.weight.detach().numpy(), found)
