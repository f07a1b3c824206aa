"""Make a hostile checkpoint out of a valid one. Every choice comes from the given Random: the same seed, the same case.

Damage behind a checksum is never looked at, so what has checksums (a torch file's members, TensorFlow's index) is taken
apart, damaged inside, and put together with right ones. JSON, also in a safetensors header, is changed as a tree.
"""

from __future__ import annotations

import contextlib
import functools
import json
from random import Random

from .cases import READERS, Case, Content, Link, Pipe
from .mutate_json import NAMES, mutate_json
from .mutate_packed import mutate_index, mutate_pickle, mutate_zip

NUMBERS = [0, 1, 2, 127, 128, 255, 256, 0x7FFF, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40]
NUMBERS += [1 << 47, 1 << 48, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def mutate(random: Random, reader: str, case: Case, others: list[Case]) -> Case:
    """Return a damaged copy of a case.

    Args:
        random: all chance.
        reader: whose case it is.
        case: a valid checkpoint, or one that is damaged already.
        others: of the same reader, from which bytes may come.
    """
    case = dict(case)
    wanted = READERS[reader].files
    names = [name for name, content in case.items() if isinstance(content, bytes)]
    names = [name for name in names if name.endswith(wanted)] if wanted else names
    if len(case) > 1 and random.random() < 0.05:
        return _mutate_files(random, case, names)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if not names:
            break
        name = random.choice(names)
        content = case[name]
        if isinstance(content, bytes):
            donors = [data for other in others for data in other.values() if isinstance(data, bytes)]
            case[name] = mutate_content(random, READERS[reader].kind, name, content, random.choice(donors))
    return case


def mutate_content(random: Random, kind: str, name: str, data: bytes, donor: bytes) -> bytes:
    """Damage one file in the way of its kind, or else its bytes as they come."""
    if random.random() < 0.7:
        with contextlib.suppress(Exception):  # a file damaged before cannot be taken apart again
            if name.endswith(".json"):
                return _mutate_json_text(random, data)
            if name.endswith(".safetensors"):
                return _mutate_safetensors(random, data)
            if name.endswith(".index"):
                return mutate_index(random, data, mutate_bytes)
            if kind == "pickle":
                return mutate_pickle(random, data, mutate_bytes)
            if kind == "zip":
                return mutate_zip(random, data, mutate_bytes)
    return mutate_bytes(random, data, donor)


def mutate_bytes(random: Random, data: bytes, donor: bytes = b"") -> bytes:
    """Change, drop, add or repeat bytes, or put a dangerous number or name somewhere."""
    out, at = bytearray(data), _place(random, data)
    kind = random.randrange(12)
    if kind <= 1:
        out[at : at + 1] = bytes([random.randrange(256)])
    elif kind == 2 and out:
        out[min(at, len(out) - 1)] ^= 1 << random.randrange(8)
    elif kind <= 5:
        width, order = random.choice((1, 2, 4, 8)), random.choice(("little", "little", "big"))
        number = random.choice((*NUMBERS, *NUMBERS, len(out), at, *range(20)))
        out[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    elif kind == 6:
        del out[at : at + random.choice((1, 2, 4, 8, 60))]
    elif kind == 7:
        out[at:at] = bytes(random.randrange(256) for _ in range(random.choice((1, 2, 4, 9))))
    elif kind == 8:
        piece = bytes(out[at : at + random.choice((1, 3, 8, 40))])
        out[at:at] = piece * random.choice((1, 2, 100))
    elif kind == 9:
        start = _place(random, donor)
        piece = donor[start : start + random.choice((4, 16, 64, 500))]
        out[at : at + random.choice((0, len(piece)))] = piece
    elif kind == 10:
        out = out[:at] if random.random() < 0.7 else out + bytes(random.choice((1, 8, 64, 5000)))
    else:
        name = random.choice(NAMES).encode("utf-8", "surrogatepass")
        out[at : at + random.choice((0, len(name)))] = name
    return bytes(out)


def _place(random: Random, data: bytes) -> int:
    """Where to change something: rarely in the middle of room that is kept free, sometimes at the end."""
    if random.random() < 0.05 or not data:
        return len(data)
    spans = _busy(data)
    start, stop = random.choice(spans)
    return random.randrange(start, stop)


@functools.lru_cache(maxsize=256)
def _busy(data: bytes) -> list[tuple[int, int]]:
    """The data in spans of 64 bytes at most, without those that are only spaces or zeros."""
    spans = [(i, min(i + 64, len(data))) for i in range(0, len(data), 64)]
    return [span for span in spans if data[slice(*span)].strip(b" \0")] or spans


def _mutate_json_text(random: Random, data: bytes) -> bytes:
    return json.dumps(mutate_json(random, json.loads(data))).encode()


def _mutate_safetensors(random: Random, data: bytes) -> bytes:
    """Change the tree in the header; the length before it is made right again."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(mutate_json(random, json.loads(data[8 : 8 + length]))).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _mutate_files(random: Random, case: Case, names: list[str]) -> Case:
    """Take a file away, or put something else in its place."""
    name, other = random.choice(list(case)), random.choice(list(case))
    replacement: Content | None = random.choice(
        (
            None,
            b"",
            case[other],
            Link(random.choice(("/etc/passwd", "../../outside", "/dev/zero", "/proc/self/mem", other, name, "."))),
            Pipe(),
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        )
    )
    changed = {key: content for key, content in case.items() if key != name}
    if replacement is not None:
        changed[name] = replacement
    return changed or case
