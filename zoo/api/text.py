"""Generate text: `generate` streams it token by token, `complete` returns it, both also for batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Literal, Unpack

from zoo.engine import Engine
from zoo.engine.module import engine_over, reason_against
from zoo.errors import OptionError
from zoo.generation.base import Backend
from zoo.generation.loop import decode
from zoo.generation.options import GenerationOptions, Options, read_options, require
from zoo.generation.row import Prompt, Row, Token, prompt_ids
from zoo.generation.speculative import N_TOKENS, Counts, Drafter, ModelDrafter, NgramDrafter, check_draft

if TYPE_CHECKING:
    from zoo.models.gpt2.model import GPTModel

    Model = GPTModel | Engine
BackendName = Literal["auto", "engine", "torch"]


def generate(
    model: Model, prompt: Prompt, *, backend: BackendName = "auto", **options: Unpack[Options]
) -> Iterator[Token]:
    """Continue a prompt, one token at a time.

    Nothing but the returned iterator holds state: the model's mode and torch's global generator stay as they are, and
    it may be dropped at any point. The arguments are checked before this returns. The weights must not change while
    it is in use.

    Args:
        model: a model, on any device, in any dtype, also in training (dropout is off); or an Engine.
        prompt: text, or token ids. An empty one starts from <|endoftext|>, which separates documents.
        backend: "engine" runs a model on the C engine, over its own memory; "torch" runs the module. "auto" uses the
            engine where it computes the same: on the CPU, for float32, bfloat16 and float16 weights, without hooks,
            adapters or subclasses.
        **options: the fields of GenerationOptions, which describes them; all are optional.

    Returns:
        an iterator of tokens. Their texts joined are the new text, without the prompt; the last has a finish_reason.

    Raises:
        OptionError: an option does not exist or is outside its range, the prompt has ids that the model does not, it
            is empty and the model has no <|endoftext|>, it is longer than the context and past_context is "stop", or
            backend="engine" cannot run the model.
        ZooError: while iterating, the model's logits are not finite.
    """
    chosen = read_options("zoo.generate()", options)
    return (token for _, token in _run(model, [prompt], chosen, 1, backend))


def complete(model: Model, prompt: Prompt, *, backend: BackendName = "auto", **options: Unpack[Options]) -> str:
    """Return the text that follows a prompt; arguments and errors are those of generate."""
    chosen = read_options("zoo.complete()", options)
    return "".join(token.text for _, token in _run(model, [prompt], chosen, 1, backend))


def generate_batch(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    n_samples: int = 1,
    backend: BackendName = "auto",
    draft: Model | Literal["ngram"] | None = None,
    draft_tokens: int | None = None,
    counts: list[Counts] | None = None,
    **options: Unpack[Options],
) -> Iterator[tuple[int, Token]]:
    """Continue several prompts at once, of any lengths, each n_samples times.

    Every text is the one that its prompt gets alone: exactly on the engine, up to the rounding of matrix products of
    another height on torch. Sample s is drawn with the seed `seed + s`, whichever its prompt.

    Args:
        model: as in generate.
        prompts: texts or lists of token ids.
        n_samples: continuations of each prompt.
        backend: as in generate, also for the draft model.
        draft: speculative decoding: "ngram" proposes tokens that followed the last ones earlier in the text; a
            smaller model with the same vocabulary proposes its own. Greedy texts are the same as without, and so are
            samples with "ngram"; samples with a model follow the same distribution.
        draft_tokens: draft tokens per pass, 1 to 255; None means 8 for "ngram" and 4 for a model.
        counts: a list that receives the Counts of each text, which are kept up to date.
        **options: as in generate, for all texts.

    Returns:
        an iterator of (i, token), as they are made: i // n_samples is the prompt's number, i % n_samples the sample's.

    Raises:
        OptionError: as generate, or one of the numbers is out of range, or the draft model has another vocabulary.
        ZooError: as generate.
    """
    chosen = read_options("zoo.generate_batch()", options)
    new_drafter = _drafters(model, draft, draft_tokens, chosen, backend) if draft is not None else None
    return _run(model, prompts, chosen, n_samples, backend, new_drafter, counts)


def complete_batch(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    n_samples: int = 1,
    backend: BackendName = "auto",
    **options: Unpack[Options],
) -> list[str]:
    """Return all texts, the samples of a prompt side by side; arguments and errors are those of generate_batch."""
    chosen = read_options("zoo.complete_batch()", options)
    tokens = _run(model, prompts, chosen, n_samples, backend)
    texts = [""] * (len(prompts) * n_samples)
    for i, token in tokens:
        texts[i] += token.text
    return texts


def generate_many(
    model: Model,
    items: Iterable[tuple[Prompt, GenerationOptions]],
    *,
    batch: int = 16,
    backend: BackendName = "auto",
) -> Iterator[tuple[int, Token]]:
    """Continue any number of prompts, `batch` at a time; where a text ends, the next prompt takes its slot at once.

    Args:
        model: as in generate.
        items: prompts, each with its options; one is taken when there is a slot for it.
        batch: texts that share one pass over the weights.
        backend: as in generate.

    Returns:
        an iterator of (i, token), as they are made: i is the item's number, from 0 on. Texts are those of
        generate_batch.

    Raises:
        OptionError: batch is below 1; or, while iterating, a prompt cannot be continued.
        ZooError: as generate.
    """
    require("batch", batch, Integral, lambda n: n >= 1, "an integer of at least 1")
    found = find_backend(model, backend)
    rows = (_row(found, i, prompt, options) for i, (prompt, options) in enumerate(items))
    return decode(found, rows, batch)


def find_backend(model: Model, backend: BackendName = "auto") -> Backend:
    """Return the backend that computes a model's logits.

    Raises:
        OptionError: the backend does not exist, or cannot run the model.
    """
    if backend not in ("auto", "engine", "torch"):
        raise OptionError(f"backend must be auto, engine or torch, not {backend!r}")
    if isinstance(model, Engine):
        if backend == "torch":
            raise OptionError("an Engine cannot run on torch; load the model with zoo.load")
        return model
    reason = None if backend == "torch" else reason_against(model)
    if backend == "engine" and reason:
        raise OptionError(f"the engine cannot run this model: {reason}; use backend='torch'")
    if backend == "torch" or reason:
        from zoo.generation.torch_backend import TorchBackend

        return TorchBackend(model)
    return engine_over(model)


def _run(
    model: Model,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    n_samples: int,
    backend: BackendName,
    new_drafter: Callable[[], Drafter] | None = None,
    counts: list[Counts] | None = None,
) -> Iterator[tuple[int, Token]]:
    require("n_samples", n_samples, Integral, lambda n: n >= 1, "an integer of at least 1")
    if isinstance(prompts, str):
        raise OptionError("prompts must be a list; put a single prompt into one")
    found = find_backend(model, backend)
    seeded = [options if options.seed is None else replace(options, seed=options.seed + s) for s in range(n_samples)]
    rows = [
        _row(found, p * n_samples + s, prompt, seeded[s]) for p, prompt in enumerate(prompts) for s in range(n_samples)
    ]
    if new_drafter:
        for row in rows:
            row.drafter = new_drafter()
            if counts is not None:
                counts.append(row.drafter.counts)
    return decode(found, rows, len(rows))


def _row(backend: Backend, index: int, prompt: Prompt, options: GenerationOptions) -> Row:
    ids = prompt_ids(backend.config, backend.tokenizer, prompt, options)
    return Row(backend.config, backend.tokenizer, options, index, ids)


def _drafters(
    model: Model,
    draft: Model | Literal["ngram"],
    n_tokens: int | None,
    options: GenerationOptions,
    backend: BackendName,
) -> Callable[[], Drafter]:
    """Return a function that makes the drafter of a text."""
    if n_tokens is None:
        n_tokens = N_TOKENS["ngram" if draft == "ngram" else "model"]
    require("draft_tokens", n_tokens, Integral, lambda n: 1 <= n <= 255, "an integer from 1 to 255")
    if draft == "ngram":
        return lambda: NgramDrafter(n_tokens)
    if isinstance(draft, str):
        raise OptionError(f'draft must be a model or "ngram", not {draft!r}')
    if options.draw == "torch":
        raise OptionError('draw="torch" does not go with a draft model; use draft="ngram", or draw="numpy"')
    drafting = find_backend(draft, backend)
    check_draft(find_backend(model, backend), drafting)
    return lambda: ModelDrafter(drafting, n_tokens)
