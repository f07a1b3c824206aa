"""Text from a model: `generate` streams it token by token, `complete` gives it whole, both also for a batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from numbers import Integral
from typing import TypedDict, Unpack

from zoo.errors import OptionError
from zoo.generation.loop import decode
from zoo.generation.options import PastContext, Prompt, Request, Row, Token, prompt_ids, require
from zoo.generation.sampler import make_generator
from zoo.models.gpt2.model import GPTModel

__all__ = ["Options", "Prompt", "Token", "complete", "complete_batch", "generate", "generate_batch", "generate_many"]


class Options(TypedDict, total=False):
    """The keyword arguments of generate, for annotating functions that pass them on."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    stop_ids: Collection[int]
    ignore_eos: bool
    past_context: PastContext


def generate(model: GPTModel, prompt: Prompt, **options: Unpack[Options]) -> Iterator[Token]:
    """Continue a prompt, one token at a time.

    Nothing but the returned iterator holds state: the model's mode and torch's global generator stay as they are, and
    it may be dropped at any point. The arguments are checked before this returns.

    Args:
        model: any GPT-2; it runs where its weights are, in their dtype, without dropout.
        prompt: text, or token ids. An empty one starts from <|endoftext|>, which stands between documents.
        **options: all of them optional:
            max_new_tokens: 64 by default; 0 yields nothing.
            temperature, top_k, top_p, min_p, repetition_penalty: how a token is chosen; see
                zoo.generation.options.Sampling.
            seed: the same seed gives the same text, in whatever batch; without one, each call gives another.
            stop: a string or several; the text ends before the first that comes.
            stop_ids: token ids that end the text and are not part of it.
            ignore_eos: whether <|endoftext|> is a token like any other; otherwise it ends the text.
            past_context: what to do when the text has filled the model's context. "slide" (the default) predicts each
                token from the last context_length ones. Positions are absolute, so this costs a pass over the whole
                context for every token. "stop" ends the text.

    Returns:
        an iterator of tokens. Their texts joined are the new text, without the prompt; the last has a finish_reason.

    Raises:
        OptionError: an option is outside its range, the prompt has ids that the model does not, it is empty and the
            model has no <|endoftext|>, or it is longer than the context and past_context is "stop".
        ZooError: while iterating, the model's logits are not finite.
    """
    return (token for _, token in generate_batch(model, [prompt], **options))


def complete(model: GPTModel, prompt: Prompt, **options: Unpack[Options]) -> str:
    """Return the text that follows a prompt; arguments and errors are those of generate."""
    return "".join(token.text for token in generate(model, prompt, **options))


def generate_batch(
    model: GPTModel, prompts: Sequence[Prompt], *, n_samples: int = 1, **options: Unpack[Options]
) -> Iterator[tuple[int, Token]]:
    """Continue several prompts at once, of any lengths, each n_samples times.

    Every text is the one that its prompt gets alone, up to the rounding of matrix products of another height. Sample s
    is drawn with the seed `seed + s`, whichever its prompt.

    Args:
        model: as in generate.
        prompts: texts or lists of token ids.
        n_samples: continuations of each prompt.
        **options: as in generate, for all texts.

    Returns:
        an iterator of (i, token), as they come: i // n_samples is the prompt's number, i % n_samples the sample's.

    Raises:
        OptionError: as generate, or n_samples is below 1.
        ZooError: as generate.
    """
    request = Request(**options)
    require("n_samples", n_samples, Integral, lambda n: n >= 1, "a whole number of at least 1")
    if isinstance(prompts, str):
        raise OptionError("prompts must be a list; put a single prompt into one")
    ids = [prompt_ids(model.config, model.tokenizer, prompt, request) for prompt in prompts]
    rows = [
        _row(model, request, p * n_samples + s, prompt, None if request.seed is None else request.seed + s)
        for p, prompt in enumerate(ids)
        for s in range(n_samples)
    ]
    return decode(model, rows, len(rows))


def generate_many(
    model: GPTModel, items: Iterable[tuple[Prompt, Request]], *, batch: int = 16
) -> Iterator[tuple[int, Token]]:
    """Continue any number of prompts, `batch` at a time; where a text ends, the next prompt takes its place at once.

    Args:
        model: as in generate.
        items: prompts, each with what is asked for it; one is taken when there is a place for it.
        batch: texts that share one pass over the weights.

    Returns:
        an iterator of (i, token), as they come: i is the item's number, from 0 on. Each text is the one that its
        item gets alone, up to the rounding of matrix products of another height.

    Raises:
        OptionError: batch is below 1; or, while iterating, a prompt cannot be continued.
        ZooError: as generate.
    """
    require("batch", batch, Integral, lambda n: n >= 1, "a whole number of at least 1")
    rows = (
        _row(model, request, i, prompt_ids(model.config, model.tokenizer, prompt, request), request.seed)
        for i, (prompt, request) in enumerate(items)
    )
    return decode(model, rows, batch)


def _row(model: GPTModel, request: Request, index: int, prompt: Sequence[int], seed: int | None) -> Row:
    generator = make_generator(seed, model.tok_emb.weight.device)
    return Row(model.config, model.tokenizer, request, index, prompt, generator)


def complete_batch(
    model: GPTModel, prompts: Sequence[Prompt], *, n_samples: int = 1, **options: Unpack[Options]
) -> list[str]:
    """Return all texts of generate_batch, the samples of a prompt side by side; arguments and errors are the same."""
    tokens = generate_batch(model, prompts, n_samples=n_samples, **options)
    texts = [""] * (len(prompts) * n_samples)
    for i, token in tokens:
        texts[i] += token.text
    return texts
