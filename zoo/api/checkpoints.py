"""Convert, compare and verify checkpoints that a user names: by path, model name, address or run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.conversion.plan import Plan, plan_path
from zoo.conversion.run import Report, convert_path
from zoo.core.progress import OnProgress
from zoo.errors import ZooError
from zoo.examine.arrangement import Check
from zoo.examine.diff import Diff, diff_paths
from zoo.examine.verify import PROMPTS, verify_path
from zoo.formats.base import Checkpoint, Format
from zoo.formats.content_hash import hash_path
from zoo.formats.opening import open_path
from zoo.hub.resolve import find_checkpoint
from zoo.models.registry import Size

if TYPE_CHECKING:
    from zoo.hub.push import Pushed


def open_checkpoint(
    source: Path | str, *, format: str | None = None, size: Size | None = None
) -> tuple[Format, Checkpoint]:
    """Open a checkpoint of any format without reading its tensors.

    Args:
        source: file or directory, the name of a model, an address, or the directory of a training run.
        format: its format's name; None recognises it by its content.
        size: the model it must be, by name or config; formats that store no config take it from here.

    Raises:
        UnknownName: there is no such format or model.
        FormatError: it is not an intact checkpoint of the format.
        ConfigError: it is another model than `size` says.
    """
    return open_path(find_checkpoint(source), format=format, size=size)


def make_plan(
    path: Path | str,
    to: str,
    *,
    format: str | None = None,
    size: Size | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    activation: str | None = None,
    strict: bool = False,
) -> Plan:
    """Work out a conversion without writing anything.

    Args:
        path: the source.
        to: name of the target format.
        format: of the source; None recognises it by its content.
        size: the model the source must be.
        dtype: to cast to, or one of the target's encodings; None keeps every tensor's own.
        max_shard_bytes: tensor bytes in a file at most; None writes one file.
        activation: as for zoo.convert.
        strict: as for zoo.convert.

    Raises:
        OptionError: the target is not written by zoo, or does not shard.
        UnknownName, FormatError, ConfigError: as open_checkpoint.
        CheckpointMismatch: names, shapes or dtypes are not those of the config; all differences are listed.
        CannotHold: the target has no place for this config or dtype.
    """
    options: dict[str, Any] = {"dtype": dtype, "max_shard_bytes": max_shard_bytes}
    options |= {"activation": activation, "strict": strict}
    return plan_path(find_checkpoint(path), to, format=format, size=size, **options)


def convert(
    source: Path | str,
    out: Path | str,
    *,
    to: str | None = None,
    format: str | None = None,
    size: Size | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    activation: str | None = None,
    strict: bool = False,
    verify: bool = True,
    force: bool = False,
    sync: bool = True,
    on_progress: OnProgress | None = None,
) -> Report:
    """Convert a checkpoint to another format, one tensor at a time.

    Args:
        source: file or directory to read.
        out: file or directory to write; it appears only when it is whole.
        to: the target format; None takes the one that out's suffix means.
        format: of the source; None recognises it by its content.
        size: the model the source must be, by name or config.
        dtype: to cast to, or one of the target's encodings, such as "int4"; None keeps every tensor's own.
        max_shard_bytes: tensor bytes in a file at most, for formats that shard; None writes one file.
        activation: to write instead of the model's own, "gelu_tanh" or "gelu"; the report says how far logits differ.
        strict: whether to refuse what would otherwise be left behind (a value head, say) or added (biases of zeros).
        verify: whether to read the output back and compare it bit for bit with the source (formats that zoo only
            writes cannot be).
        force: whether an existing output may be replaced.
        sync: whether the output survives a power failure from the moment this returns.
        on_progress: called as the bytes go by.

    Raises:
        ZooError: anything make_plan raises; a damaged source; OutputError; VerificationFailed.
    """
    return convert_path(
        find_checkpoint(source),
        out,
        to=to,
        format=format,
        size=size,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        activation=activation,
        strict=strict,
        verify=verify,
        force=force,
        sync=sync,
        on_progress=on_progress,
    )


def content_hash(source: Path | str, *, format: str | None = None, size: Size | None = None) -> str:
    """Return the content hash of a checkpoint: the same for all its lossless conversions, in 64 hexadecimal digits.

    Args:
        source: file or directory of any format, or the name of a model.
        format: its name; None recognises it.
        size: the model it must be; formats that store no config take it from here.

    Raises:
        ZooError: as open_checkpoint; or the checkpoint is damaged.
    """
    return hash_path(find_checkpoint(source), format=format, size=size)


def diff(
    a: Path | str,
    b: Path | str,
    *,
    formats: tuple[str | None, str | None] = (None, None),
    size: Size | None = None,
    atol: float = 0.0,
    on_tensor: Callable[[int, int], None] | None = None,
) -> Diff:
    """Compare two checkpoints tensor by tensor, a few chunks in memory at a time.

    Rows of padding are left out; a tied head is compared as the embedding that it is.

    Args:
        a: file or directory of any format.
        b: another.
        formats: theirs; None recognises one.
        size: the model that both must be.
        atol: difference of two values that counts as none.
        on_tensor: called as on_tensor(tensors done, tensors in all).

    Raises:
        ZooError: one of them is no whole checkpoint.
    """
    return diff_paths(
        find_checkpoint(a), find_checkpoint(b), formats=formats, size=size, atol=atol, on_tensor=on_tensor
    )


def verify(
    source: Path | str,
    *,
    against: Path | str | None = None,
    prompts: Sequence[str] = PROMPTS,
    format: str | None = None,
    size: Size | None = None,
    run: bool = True,
    on_progress: OnProgress | None = None,
) -> list[Check]:
    """Check that a checkpoint is intact, finite and not rearranged.

    Args:
        source: file or directory of any format.
        against: a second checkpoint, whose logits must agree.
        prompts: texts to run.
        format: of source; None recognises it.
        size: the model it must be.
        run: whether to run the model; without, only the file and its values are looked at.
        on_progress: called as on_progress(check, done, total) while tensors are read and the model runs.

    Returns:
        all checks, those that failed among them. A checkpoint that cannot be opened is one failed check.

    Raises:
        ZooError: `against` cannot be loaded.
    """
    try:
        path = find_checkpoint(source)
    except ZooError as error:
        return [Check("structure", "failed", str(error))]
    return verify_path(
        path,
        against=None if against is None else find_checkpoint(against),
        prompts=prompts,
        format=format,
        size=size,
        run=run,
        on_progress=on_progress,
    )


def push(
    source: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    dtype: str | None = None,
    update: bool = False,
    on_progress: OnProgress | None = None,
) -> Pushed:
    """Publish a checkpoint of any format on the Hub.

    Args:
        source: path or name of a checkpoint, an address, or a run.
        repository: "org/name"; it is made if it does not exist.
        private: whether a new repository is for its owner only.
        revision: branch to commit to, made if need be; None is main.
        message: of the commit.
        license: for the card, as the Hub spells it ("mit").
        dtype: to cast to.
        update: whether a repository that has files already may be changed.
        on_progress: called as the conversion's bytes go by.

    Raises:
        OptionError: the repository has files, and update is not given; or ZOO_OFFLINE is set.
        DownloadError: the Hub refuses, or cannot be reached.
        MissingPackage: huggingface_hub is not installed.
        ZooError: the source cannot be converted.
    """
    from zoo.hub.push import push_path  # imports requests, which conversions do not need

    return push_path(
        find_checkpoint(source, on_progress=on_progress),
        repository,
        private=private,
        revision=revision,
        message=message,
        license=license,
        dtype=dtype,
        update=update,
        on_progress=on_progress,
    )
