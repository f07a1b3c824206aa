"""The example of docs/writing-a-converter.md: GPT-2 in one numpy .npz file, every matrix lying (in, out)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import zoo
from zoo.core.tensors import LazyTensor
from zoo.errors import CorruptFile
from zoo.formats.base import WriteOptions
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Rule, Table


def _pair(name: str, how: str = "") -> tuple[Rule, ...]:
    return Rule(f"{name}/weight", f"{name}.weight", how), Rule(f"{name}/bias", f"{name}.bias")


class Npz(zoo.Format):
    """One .npz file: a member for each tensor, and the config as JSON."""

    name = "npz"
    summary = "one numpy .npz file, an example of a plugin"
    suffixes = (".npz",)
    dtypes = ("float32", "float16")
    table = Table(
        (
            Rule("tok_emb", "tok_emb.weight"),
            Rule("pos_emb", "pos_emb.weight"),
            *_pair("blocks.{i}.norm1"),
            *_pair("blocks.{i}.attn.qkv", "i o -> o i"),
            *_pair("blocks.{i}.attn.out", "i o -> o i"),
            *_pair("blocks.{i}.norm2"),
            *_pair("blocks.{i}.mlp.up", "i o -> o i"),
            *_pair("blocks.{i}.mlp.down", "i o -> o i"),
            *_pair("final_norm"),
            Rule("head", "head.weight"),
        )
    )
    config_map = ConfigMap(fields=())  # the config is stored as zoo spells it

    def sniff(self, path: Path) -> bool:
        """Whether it is a zip with our config in it."""
        return zipfile.is_zipfile(path) and "zoo_config.npy" in zipfile.ZipFile(path).namelist()

    def read(self, path: Path, known: Mapping[str, Any] | None = None) -> zoo.Checkpoint:
        """Open the file; numpy reads a member when it is asked for."""
        try:
            file = np.load(path, allow_pickle=False)
            found = zoo.GPTConfig.from_dict(json.loads(file["zoo_config"].item()))
            shapes = self.table.shapes(found)
            tensors = {
                name: LazyTensor(shape, np.dtype(file["zoo_dtype"].item()), lambda name=name: file[name])
                for name, shape in shapes.items()
            }
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise CorruptFile(path, f"is not an intact .npz of zoo-example ({error})") from error
        return zoo.Checkpoint(path, found, tensors, files=(path,))

    def write(self, path: Path, checkpoint: zoo.Checkpoint, options: WriteOptions) -> None:
        """Write one member after another."""
        dtype = next(iter(checkpoint.tensors.values())).dtype
        members = {"zoo_config": np.array(json.dumps(checkpoint.config.to_dict())), "zoo_dtype": np.array(str(dtype))}
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in members.items():
                _add(archive, name, array)
            for name, tensor in checkpoint.tensors.items():
                _add(archive, name, tensor.load())
                options.on_bytes(tensor.nbytes)


def _add(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    # A fixed date, so that the same model gives the same bytes.
    with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.ascontiguousarray(array))
