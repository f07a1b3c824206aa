"""Create the packaged model, zoo/data/stories.safetensors, from its training run: bfloat16, without unused rows.

python tools/pack_stories.py runs/stories
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import zoo
from zoo.converters.zoo_file import ZooFile
from zoo.core.tensors import DTYPES
from zoo.formats.mapping import to_theirs

OUT = Path(__file__).resolve().parents[1] / "zoo" / "data" / "stories.safetensors"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    found, checkpoint = zoo.open_checkpoint(run)
    ours, _ = found.to_ours(checkpoint)
    half = {name: tensor.astype(DTYPES["bfloat16"]) for name, tensor in ours.items()}
    settings = json.loads((run / "config.json").read_text())
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    provenance = {
        "zoo_version": zoo.__version__,
        "trained_on": "118 public-domain children's books; docs/stories.md",
        "steps": last["step"],
        "tokens": last["tokens"],
        "val_loss": last["val_loss"],
        "settings": {key: settings["config"][key] for key in ("lr", "batch_size", "context", "seed", "weight_decay")},
    }
    packed = replace(
        checkpoint, tensors=to_theirs(ZooFile.table, half, checkpoint.config), vocabulary=None, provenance=provenance
    )
    OUT.unlink(missing_ok=True)
    ZooFile().write_compact(OUT, packed)
    n_rows = len(np.flatnonzero(np.any(half["tok_emb.weight"].load() != 0, axis=1)))
    print(f"{OUT}: {OUT.stat().st_size:,} bytes, {n_rows:,} of {checkpoint.config.vocab_rows:,} rows")


if __name__ == "__main__":
    main()
