"""Token files of nanoGPT and llm.c, against their documented bytes."""

import struct

import numpy as np
import pytest

import zoo
from zoo.errors import FormatError, OptionError, OutputError
from zoo.train.data.tokens import encode_documents, open_tokens, write_tokens

DOCUMENTS = ["Every effort moves you", "", "forward.\n", "<|endoftext|> is text here"]


def test_nanogpt_files_are_plain_uint16(tmp_path):
    """Ids are little-endian uint16 with nothing around them."""
    path = tmp_path / "train.bin"
    assert 3 == write_tokens(path, [np.array([1, 50256], np.uint16), np.array([258], np.uint16)])
    assert b"\x01\x00\x50\xc4\x02\x01" == path.read_bytes()
    assert [1, 50256, 258] == open_tokens(path).tolist()


@pytest.mark.parametrize(("dtype", "version"), [(np.uint16, 1), (np.uint32, 7)])
def test_llmc_files_have_its_header(tmp_path, dtype, version):
    """256 int32 (20240520, version, number of tokens), then the tokens."""
    path = tmp_path / "train.bin"
    write_tokens(path, [np.array([7, 8, 50256], dtype)], layout="llm.c")
    data = path.read_bytes()
    assert (20240520, version, 3) == struct.unpack_from("<3i", data)
    assert bytes(1024 - 12) == data[12:1024]
    assert np.array([7, 8, 50256], dtype).tobytes() == data[1024:]
    assert [7, 8, 50256] == open_tokens(path).tolist()


def test_wide_ids_do_not_fit_nanogpt(tmp_path):
    """Ids above 65,535 are refused instead of truncated, and nothing is written."""
    with pytest.raises(OptionError, match="65,536"):
        write_tokens(tmp_path / "x.bin", [np.array([70000], np.uint32)])
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes"),
        (b"abc", "has 3 bytes"),
        (struct.pack("<3i", 20240520, 1, 9).ljust(1024, b"\0") + b"12", "its header says 9 tokens"),
        (struct.pack("<3i", 20240520, 1, -1).ljust(1024, b"\0") + b"12", "its header says -1 tokens"),
        (struct.pack("<3i", 20240520, 3, 1).ljust(1024, b"\0") + b"12", "llm.c's version 3"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    """Token files whose length differs from their header are refused."""
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        open_tokens(path)


@pytest.mark.parametrize("processes", [1, 2])
def test_documents_are_separated_and_in_order(processes):
    """<|endoftext|> is written between documents, not around them, for any number of processes."""
    tokenizer = zoo.Tokenizer()
    parts = encode_documents((text for text in DOCUMENTS), tokenizer, processes=processes)
    ids = np.concatenate(list(parts)).tolist()
    expected = []
    for text in DOCUMENTS:
        expected += [50256, *tokenizer.encode(text)]
    assert expected[1:] == ids


def test_an_existing_file_is_kept(tmp_path):
    """Without force, an existing file is not replaced."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"ab")
    with pytest.raises(OutputError, match="exists already"):
        write_tokens(path, [np.array([1], np.uint16)])
    assert b"ab" == path.read_bytes()
