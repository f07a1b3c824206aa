"""From what a user names, a path or a model, to the checkpoint on this machine."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import FormatError, MissingWeights
from zoo.registry import is_registered, resolve_name
from zoo.train.layout import weights_of_run

PACKAGED = "stories"
"""The model that comes with the package, in zoo/data/."""


def find_checkpoint(source: str | Path) -> Path:
    """Return the path of a checkpoint that the user named.

    Args:
        source: a path, where a run of zoo train stands for its newest weights; or the name of a registered model.

    Raises:
        MissingWeights: it is a registered name, and its weights are not on this machine.
        FormatError: there is no such path.
        UnknownName: it is neither a path that exists nor a registered name.
    """
    path, name = Path(source), str(source)
    if path.exists():
        return weights_of_run(path) or path
    if path.with_name(f"{path.name}.index").is_file():  # TensorFlow's name for the files that begin so
        return path
    if set(name) & set("/\\") or path.suffix or (isinstance(source, Path) and not is_registered(name)):
        raise FormatError(path, "there is no such file or directory")
    if name == PACKAGED:
        return Path(__file__).parent / "data" / f"{PACKAGED}.safetensors"
    raise MissingWeights(
        f"the weights of {resolve_name(name)} are not on this machine; convert a checkpoint with "
        f"`zoo convert --from openai --source DIR --size {name} --out {name}.safetensors` and give that file"
    )
