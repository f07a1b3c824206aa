"""Files that mean far more than they say: the worst that each container allows, of any size.

Mutations of small files never come near the limits on memory; these are made for them.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable

from zoo.containers.tensorflow.leveldb import write_table

from .cases import Case, seeds


def _named(reader: str, name: str, content: bytes) -> Case:
    """A good checkpoint with one file that is a bomb."""
    case = next(case for case in seeds(reader).values() if name in case)
    return {key: old for key, old in case.items() if key != "added_tokens.json"} | {name: content}


def _config(piece: bytes, size: int) -> Case:
    return _named("json", "config.json", b'{"a":[' + b",".join([piece] * (size // (len(piece) + 1))) + b"]}")


def _keys(size: int) -> Case:
    return _named("json", "config.json", json.dumps({f"{i:x}": 0 for i in range(size // 10)}).encode())


def _deep(size: int) -> Case:
    return _named("json", "config.json", b'{"a":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}")


def _tokens(size: int) -> Case:
    tokens = {f"{i:x}": i for i in range(size // 15)} | {"<|endoftext|>": size}
    return {**_named("json", "encoder.json", json.dumps(tokens).encode()), "vocab.bpe": b"#version: 0.2\n"}


def _special_tokens(size: int) -> Case:
    tokens = {f"<{i:x}>": i for i in range(size // 18)} | {"<|endoftext|>": size}
    return {**_named("json", "encoder.json", json.dumps(tokens).encode()), "vocab.bpe": b"#version: 0.2\n"}


def _merges(size: int) -> Case:
    """Each merge doubles the token: the last one has a quarter of the file's letters."""
    token, tokens, lines = "a", {"a": 0, "<|endoftext|>": 1}, ["#version: 0.2"]
    while 8 * len(token) < size:
        lines.append(f"{token} {token}")
        token += token
        tokens[token] = len(tokens)
    encoder = json.dumps(tokens).encode()
    return {**_named("json", "encoder.json", encoder), "vocab.bpe": "\n".join([*lines, ""]).encode()}


def _entries(size: int) -> Case:
    entries = {f"{i:x}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(size // 58)}
    header = json.dumps({"__metadata__": {"format": "zoo"}, **entries}).encode()
    return {"m.safetensors": len(header).to_bytes(8, "little") + header}


def _gguf(n_tensors: int, n_keys: int, content: bytes) -> Case:
    return {"m.gguf": b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + content}


def _text(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


def _gguf_tensors(size: int) -> Case:
    described = (_text(f"{i:x}") + struct.pack("<IQIQ", 1, 0, 0, 0) for i in range(size // 36))
    return _gguf(size // 36, 0, b"".join(described))


def _gguf_keys(size: int) -> Case:
    return _gguf(0, size // 18, b"".join(_text(f"{i:x}") + struct.pack("<IB", 0, 0) for i in range(size // 18)))


def _gguf_strings(size: int) -> Case:
    strings = b"".join(_text(f"{i:x}") for i in range(size // 13))
    return _gguf(0, 1, _text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, size // 13) + strings)


def _torch(content: bytes) -> Case:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return {"m.pt": out.getvalue()}


def _legacy(content: bytes) -> Case:
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return {"m.pt": start + content + pickle.dumps([], 2)}


def _objects(opcode: bytes, size: int) -> bytes:
    return b"\x80\x02](" + opcode * (size // len(opcode)) + b"e."


def _doubling(size: int) -> bytes:
    """A list that holds twice one that holds twice ..."""
    return b"\x80\x02]" + b"q\x00](h\x00h\x00e" * min(size // 9, 1000) + b"."


def _expanded(size: int) -> bytes:
    """Tensors of one element each, repeated along axes of stride 0."""
    storage = b"(X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0M\xff\x0fM\xff\x0f\x86K\0K\0\x86\x89Ntr"
    tensor = tensor[:-1] + b"R"
    names = (b"X\x06\0\0\0%06d" % i for i in range(size // len(tensor)))
    return b"\x80\x02}(" + b"".join(name + tensor for name in names) + b"u."


def _msgpack(unit: bytes, size: int) -> Case:
    count = size // len(unit)
    return _named("flax", "flax_model.msgpack", b"\x81\xa1a\xdd" + count.to_bytes(4, "big") + unit * count)


def _index(size: int) -> Case:
    """Tensors of four bytes, all the same ones."""
    count = size // 20
    entries = [(f"{i:08x}".encode(), b"\x08\x01\x28\x04") for i in range(count)]
    table = write_table([(b"", b"\x08\x01\x1a\x02\x08\x01"), *entries])
    return _named("tf", "model.ckpt.index", table)


def _shared(size: int) -> Case:
    """Tensors that are all the whole data file."""
    case = _named("tf", "model.ckpt.index", b"")
    entry = b"\x08\x04\x12\x06\x12\x04\x08" + b"\x80\x80\x40" + b"\x28" + b"\x80\x80\x40"
    table = write_table(
        [(b"", b"\x08\x01\x1a\x02\x08\x01"), *((f"{i:08x}".encode(), entry) for i in range(size // 30))]
    )
    return {**case, "model.ckpt.index": table, "model.ckpt.data-00000-of-00001": bytes(1 << 20)}


def _pieces(size: int) -> Case:
    case = next(iter(seeds("sharded").values()))
    index = json.loads(bytes(case["zoo.json"]))  # type: ignore[arg-type]
    tensor = next(iter(index["tensors"].values()))
    tensor["pieces"] += [[tensor["pieces"][0][0], 0, 0, [0, 0], [0, 0]]] * (size // 40)
    return {**case, "zoo.json": json.dumps(index).encode()}


def _long_keys(size: int) -> bytes:
    """A tuple of very many items that is the key of a dict again and again."""
    items = min(size // 4, 40_000)
    return b"\x80\x02((" + b"K\x01" * items + b"tq\x000}(" + b"h\x00N" * min(size // 8, 13_000) + b"u."


def _long_integers(size: int) -> bytes:
    """Integers of a third of the file as keys."""
    number = b"\x8b" + (size // 3).to_bytes(4, "little") + b"\x7f" * (size // 3)
    return b"\x80\x02}(" + (number + b"N") * 3 + b"u."


def _members(size: int) -> Case:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        for i in range(size // 110):
            archive.writestr(zipfile.ZipInfo(f"archive/data/{i}"), b"")
    return {"m.pt": out.getvalue()}


def _fields(size: int) -> Case:
    """Entries of very many fields of two bytes."""
    values = [(f"{i:08x}".encode(), b"\x48\x01" * (size // 20)) for i in range(10)]
    return _named("tf", "model.ckpt.index", write_table([(b"", b"\x08\x01\x1a\x02\x08\x01"), *values]))


BOMBS: dict[str, tuple[str, Callable[[int], Case]]] = {
    "json-lists": ("json", lambda size: _config(b"[]", size)),
    "json-dicts": ("json", lambda size: _config(b"{}", size)),
    "json-pairs": ("json", lambda size: _config(b'{"":0}', size)),
    "json-numbers": ("json", lambda size: _config(b"999", size)),
    "json-texts": ("json", lambda size: _config('"é€"'.encode(), size)),
    "json-wide-text": ("json", lambda size: _config(b'"' + b"x" * (size - 20) + '😀"'.encode(), size)),
    "json-keys": ("json", _keys),
    "json-deep": ("json", _deep),
    "tokens": ("json", _tokens),
    "special-tokens": ("json", _special_tokens),
    "long-merges": ("json", _merges),
    "safetensors-entries": ("safetensors", _entries),
    "gguf-tensors": ("gguf", _gguf_tensors),
    "gguf-keys": ("gguf", _gguf_keys),
    "gguf-strings": ("gguf", _gguf_strings),
    "pickle-sets": ("torch", lambda size: _torch(_objects(b"\x8f", size))),
    "pickle-texts": ("torch", lambda size: _torch(_objects(b"X\x02\0\0\0\xc3\xa9", size))),
    "pickle-doubling": ("torch", lambda size: _torch(_doubling(size))),
    "pickle-expanded": ("torch", lambda size: _torch(_expanded(size))),
    "pickle-long-keys": ("torch", lambda size: _torch(_long_keys(size))),
    "pickle-long-integers": ("torch", lambda size: _torch(_long_integers(size))),
    "zip-members": ("torch", _members),
    "index-fields": ("tf", _fields),
    "legacy-sets": ("legacy", lambda size: _legacy(_objects(b"\x8f", size))),
    "msgpack-extensions": ("flax", lambda size: _msgpack(b"\xd4\x01\x00", size)),
    "msgpack-maps": ("flax", lambda size: _msgpack(b"\x81\xa0\x80", size)),
    "index-entries": ("tf", _index),
    "index-shared-data": ("tf", _shared),
    "pieces": ("sharded", _pieces),
}
"""Reader, and what makes a case of about so many bytes, by name."""
