"""Damage inside what has checksums, and make the checksums right again: torch's archives and TensorFlow's index."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable
from random import Random

from zoo.containers.tensorflow.leveldb import read_table, write_table

Bytes = Callable[[Random, bytes], bytes]

# Instructions that call, import, build objects, or make much out of little.
_OPCODES = [
    *(
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"c__builtin__\ngetattr\n",
        b"ctorch.hub\nload\n",
        b"(S'id'\nios\nsystem\n",
    ),
    *(b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"X\0\0\0\0"),
    *(b"ctorch\nSize\n", b"c_codecs\nencode\n", b"ctorch\nfloat32\n", b"ctorch\ndevice\n", b"X\x02\0\0\0ab", b"L5L\n"),
    *(b"R", b"b", b"\x81", b"\x82\x01", b"\x93", b"(", b".", b"0", b"1", b"2", b"t", b"\x85", b"\x86", b"]", b"}"),
    *(b"e", b"u", b"s", b"a", b"\x8f", b"\x90", b"\x91", b"Q", b"N", b"\x88", b"K\x01", b"h\0", b"q\0", b"h\1", b"h\2"),
    *(b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"\x8b\x02\0\0\0\xff\x7f", b"J\xff\xff\xff\x7f", b"P0\n", b"I01\n"),
    *(b"\x8a\x09" + b"\xff" * 8 + b"\0", b"G\x7f\xf0" + bytes(6), b"\x8e" + b"\xff" * 8, b"\x95" + b"\xff" * 8),
]


def mutate_pickle(random: Random, data: bytes, mutate_bytes: Bytes) -> bytes:
    """Change a torch archive's pickle, instruction by instruction, and write it with the right checksum."""
    names, records = _open(data)
    name = next(name for name in names if name.endswith("data.pkl"))
    content = records[name]
    starts = [position for _, _, position in pickletools.genops(content) if position is not None]
    for _ in range(random.choice((1, 1, 2, 4))):
        i = random.randrange(len(starts) - 1)
        at, end = starts[i], starts[i + 1]
        kind = random.randrange(6)
        if kind == 0:
            content = content[:at] + random.choice(_OPCODES) + content[at:]
        elif kind == 1:
            content = content[:at] + random.choice(_OPCODES) + content[end:]
        elif kind == 2:
            content = content[:at] + content[end:]
        elif kind == 3:
            content = content[:end] + content[at:end] * random.choice((1, 1, 2, 300)) + content[end:]
        elif kind == 4:
            j = random.randrange(len(starts) - 1)
            content = content[:at] + content[starts[j] : starts[j + 1]] + content[end:]
        else:
            content = content[:at] + mutate_bytes(random, content[at:end]) + content[end:]
        starts = [min(start, max(0, len(content) - 1)) for start in starts]
    return _write({**records, name: content})


def mutate_zip(random: Random, data: bytes, mutate_bytes: Bytes) -> bytes:
    """Change an archive: a number in one of its headers, or a member, its name or how it is stored."""
    if random.random() < 0.6:
        magic = random.choice(
            (b"PK\x01\x02", b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")
        )
        places = [i for i in range(len(data)) if data.startswith(magic, i)]
        if places:
            at = random.choice(places)
            return data[:at] + mutate_bytes(random, data[at : at + 60]) + data[at + 60 :]
    _, records = _open(data)
    name = random.choice(list(records))
    kind = random.randrange(6)
    if kind == 0:
        records[name] = mutate_bytes(random, records[name])
    elif kind == 1:
        records[random.choice((f"../{name}", f"/{name}", name + "x", name.upper(), "x/y/" + name))] = records.pop(name)
    elif kind == 2:
        del records[name]
    elif kind == 3:
        records["archive/byteorder"] = random.choice((b"big", b"", b"little\n"))
    return _write(records, packed=name if kind == 4 else "", bomb=kind == 5)


def mutate_index(random: Random, data: bytes, mutate_bytes: Bytes) -> bytes:
    """Change keys and values of TensorFlow's index; its blocks get right checksums."""
    entries = list(read_table(data))
    for _ in range(random.choice((1, 1, 2))):
        i = random.randrange(len(entries))
        key, value = entries[i]
        kind = random.randrange(8)
        if kind <= 4:
            entries[i] = (key, mutate_bytes(random, value))
        elif kind == 5:
            entries[i] = (mutate_bytes(random, key), value)
        elif kind == 6:
            entries.append((key + b"x", value))
        else:
            del entries[i]
        entries = sorted(dict(entries).items()) or [(b"", b"")]
    return write_table(entries)


def _open(data: bytes) -> tuple[list[str], dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist(), {name: archive.read(name) for name in archive.namelist()}


def _write(records: dict[str, bytes], packed: str = "", bomb: bool = False) -> bytes:
    """An archive of these members: one of them compressed, or beside a compressed one that is all zeros."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in records.items():
            method = zipfile.ZIP_DEFLATED if name == packed else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name), content, method)
        if bomb and "archive/data/0x" not in records:
            archive.writestr(zipfile.ZipInfo("archive/data/0x"), bytes(1 << 20), zipfile.ZIP_DEFLATED)
    return out.getvalue()
