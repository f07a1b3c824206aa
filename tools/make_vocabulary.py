"""Make zoo/data/gpt2-merges.bin from GPT-2's BPE files.

    python tools/make_vocabulary.py DIR            write the packaged file
    python tools/make_vocabulary.py --check DIR    say whether the packaged file is what this script makes

DIR holds OpenAI's encoder.json and vocab.bpe, the same files as Hugging Face's vocab.json and merges.txt. Run
it with the repository's root on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
from pathlib import Path

from zoo.text.vocabulary import GPT2_MERGES, GPT2_SHA256, Vocabulary


def packed_merges(vocabulary: Vocabulary) -> bytes:
    """Pack the ids of every merge's two tokens, as zoo.text.vocabulary reads them."""
    ids = vocabulary.tokens
    return b"".join(struct.pack("<HH", ids[left], ids[right]) for left, right in vocabulary.merges)


def main() -> str | None:
    """Run the command; return an error message, or None."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()

    original = Vocabulary.read(options.directory)
    if original is None:
        return f"{options.directory} has no encoder.json and vocab.bpe"
    digests = tuple(hashlib.sha256(data).hexdigest() for data in (original.encoder_json, original.vocab_bpe))
    if digests != GPT2_SHA256:
        return f"the files in {options.directory} are not GPT-2's: SHA-256 {digests}, not {GPT2_SHA256}"
    packed = packed_merges(original)
    if not options.check:
        GPT2_MERGES.parent.mkdir(exist_ok=True)
        GPT2_MERGES.write_bytes(packed)
    if GPT2_MERGES.read_bytes() != packed:
        return f"{GPT2_MERGES} is not what this script makes: run it without --check"
    if Vocabulary.gpt2().files() != original.files():
        return f"{GPT2_MERGES} does not give the two files back: zoo/text/vocabulary.py is wrong"
    print(f"{GPT2_MERGES}: {len(packed):,} bytes, gives both files back byte for byte")
    return None


if __name__ == "__main__":
    sys.exit(main())
