"""The model of `zoo generate`, on the native engine or on torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.cli._progress import resolve
from zoo.cli._show import note
from zoo.errors import OptionError

if TYPE_CHECKING:
    from zoo.api.text import BackendName
    from zoo.cli.generate import Arguments
    from zoo.engine import Engine
    from zoo.models.gpt2.model import GPTModel


@dataclass(frozen=True)
class Loaded:
    """A model, and what runs it.

    Attributes:
        path: of the checkpoint.
        model: the model.
        backend: "engine" or "torch".
        draft: the draft model, "ngram", or None without speculation.
    """

    path: Path
    model: Engine | GPTModel
    backend: BackendName
    draft: Engine | GPTModel | Literal["ngram"] | None

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model.tokenizer


def load_model(given: Arguments) -> Loaded:
    """Load the model of a command, and its draft model."""
    native, device = _backend(given)
    path = resolve(given.model or _default())
    model = _open(given, path, device, native=native, is_draft=False)
    draft = _open(given, resolve(given.draft), device, native=native, is_draft=True) if given.draft else None
    return Loaded(path, model, "engine" if native else "torch", draft or given.speculate)


def _open(given: Arguments, path: Path, device: str, *, native: bool, is_draft: bool) -> Engine | GPTModel:
    named: dict[str, Any] = {} if is_draft else {"format": given.format, "size": given.size}
    if native:
        from zoo.engine import Engine

        if given.int8_prefill and not is_draft:
            named["int8_prefill"] = True
        engine = Engine.open(path, dtype=given.dtype, quantize=given.quantize, threads=given.threads, **named)
        if named.get("int8_prefill") and not engine.int8_prefill:
            note("this processor does not multiply 8-bit numbers fast enough; --int8-prefill changes nothing")
        return engine
    from zoo.api.models import load

    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    return load(path, dtype=given.dtype, device=device, **named)


def _default() -> str:
    """Return the model to use without --model, and say which."""
    from zoo.hub.default_model import default_model
    from zoo.hub.resolve import PACKAGED

    name, where = default_model()
    if name == PACKAGED:
        note(f"using the small model {name!r}; for GPT-2 itself: --model gpt2-small (498 MB)")
    else:
        note(f"using the model {name!r} of {where}")
    return name


def _backend(given: Arguments) -> tuple[bool, str]:
    """Return whether the native engine runs, because it must or because it can, and the device."""
    from zoo.engine import is_built

    option = "--quantize" if given.quantize else "--int8-prefill" if given.int8_prefill else None
    if option and given.engine == "torch":
        raise OptionError(f"{option} needs the native engine; leave out --engine torch")
    needed = bool(option) or given.engine == "native"
    if needed and given.device not in ("cpu", "auto"):
        raise OptionError(f"the native engine runs on the CPU, not on {given.device}; use --engine torch")
    if option and not is_built():
        raise OptionError(
            f"{option} needs the native engine, which was not built here; leave it out, or install zoo "
            "with a C compiler"
        )
    if needed or given.device == "cpu":
        device = "cpu"
    else:
        from zoo.models.device import find_device

        device = str(find_device(given.device))
    return needed or (given.engine == "auto" and device == "cpu" and given.dtype != "float64" and is_built()), device
