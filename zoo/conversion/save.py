"""Write a model that is in memory, in any format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.conversion.make_plan import plan_checkpoint
from zoo.conversion.plan import Plan
from zoo.conversion.report import Report
from zoo.conversion.run import run_plan
from zoo.conversion.target import format_of_suffix
from zoo.core.progress import OnProgress
from zoo.core.tensors import LazyTensor
from zoo.errors import OptionError
from zoo.formats.base import Checkpoint
from zoo.formats.registry import get_format
from zoo.models.arrays import to_numpy
from zoo.models.gpt2.model import GPTModel
from zoo.text.vocabulary import Vocabulary


def save(
    model: GPTModel,
    out: str | Path,
    *,
    to: str | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    variant: str | None = None,
    strict: bool = False,
    verify: bool = True,
    force: bool = False,
    sync: bool = True,
    on_progress: OnProgress | None = None,
) -> Report:
    """Write a model in any format, with the plan, the checks and the report of zoo.convert.

    Args:
        model: to write.
        out: file or directory; it appears only when it is complete.
        to: the format; None takes the one that out's suffix means.
        dtype: to cast to, or one of the target's encodings, such as "int4"; None keeps every tensor's own.
        max_shard_bytes: most bytes of tensors in one file, for formats that shard; None writes one file.
        variant: one of the format's variants, as for zoo.convert.
        strict: whether to refuse a format that has no models without biases, instead of adding biases of zeros.
        verify: whether to read the output back and compare it bit for bit with the model.
        force: whether an existing output may be replaced.
        sync: whether the output survives a power failure from the moment this returns.
        on_progress: Callback with the bytes written and compared so far.

    Raises:
        OptionError: No format is given and the suffix of out selects none, or the model has LoRA adapters.
        CannotHold: The format cannot represent this model or its dtype.
        OutputError: out exists or cannot be written.
        VerificationFailed: The output differs from the model.
    """
    out = Path(out)

    def make_plan() -> Plan:
        target = to or format_of_suffix(out)
        options: dict[str, Any] = {"dtype": dtype, "max_shard_bytes": max_shard_bytes, "variant": variant}
        return plan_checkpoint(get_format("zoo"), _in_memory(model), target, strict=strict, **options)

    return run_plan(make_plan, out, verify=verify, force=force, sync=sync, on_progress=on_progress)


def _in_memory(model: GPTModel) -> Checkpoint:
    """Return the model as a checkpoint of zoo's own format whose tensors are already loaded."""
    state = model.state_dict()
    if any("lora_" in name for name in state):
        raise OptionError(
            "the model has LoRA adapters; merge them with zoo.train.merge_lora, or save them alone with "
            "zoo.train.save_adapter"
        )
    vocabulary = model.tokenizer.vocabulary  # a model made from scratch has GPT-2's, whatever its size
    return Checkpoint(
        Path("the model in memory"),
        model.config,
        {name: LazyTensor.of(to_numpy(state[name])) for name in model.config.parameter_shapes()},
        vocabulary=vocabulary if vocabulary.n_tokens <= model.config.vocab_rows else Vocabulary(),
    )
