"""A file that changes under a model which is mapped from it."""

import os
import shutil

import pytest
from small import SMALL

import zoo
from zoo.core.mapped import MappedFiles
from zoo.errors import CorruptFile

CONFIG = SMALL.replace(vocab_size=50257)


@pytest.fixture
def file(tmp_path):
    zoo.save(zoo.create(CONFIG, seed=3), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def users(file):
    """The model, an engine, and the model on torch: whatever can be mapped from a file."""
    model = zoo.load(file)
    yield lambda: zoo.complete(model, "a b", max_new_tokens=2, temperature=0)
    engine = zoo.open_engine(file)
    yield lambda: zoo.complete(engine, "a b", max_new_tokens=2, temperature=0)
    yield lambda: zoo.complete(model, "a b", max_new_tokens=2, temperature=0, backend="torch")


@pytest.mark.parametrize("change", ["overwritten", "truncated"])
def test_a_file_changed_in_place_is_refused_at_the_next_step(tmp_path, file, change):
    """The values have become others, or are gone: an error says so, where a process would end with SIGBUS."""
    running = list(users(file))
    for run in running:
        run()
    if change == "overwritten":
        zoo.save(zoo.create(CONFIG, seed=4), tmp_path / "other.safetensors")
        shutil.copyfile(tmp_path / "other.safetensors", file)
    else:
        os.truncate(file, 4096)

    for run in running:
        with pytest.raises(CorruptFile, match="was changed while a model that is mapped from it was in use; load it"):
            run()


def test_a_new_file_of_the_same_name_changes_nothing(tmp_path, file):
    """zoo's outputs replace a file by renaming: those who map the old one keep it, also when it is deleted."""
    running = list(users(file))
    before = [run() for run in running]
    zoo.save(zoo.create(CONFIG, seed=4), file, force=True)

    assert [run() for run in running] == before
    file.unlink()
    assert [run() for run in running] == before


def test_weights_in_memory_need_no_file(file):
    """A cast copies the weights; the file may change then."""
    engine = zoo.open_engine(file, dtype="float16")
    model = zoo.load(file, dtype="float16")
    os.truncate(file, 4096)

    assert engine._files is None and model.mapped_files is None
    zoo.complete(engine, "a b", max_new_tokens=2)
    assert MappedFiles.of([file], []) is None
