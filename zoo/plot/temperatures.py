"""Plot distributions of the next token at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import OptionError
from zoo.plot.figure import make_figure

if TYPE_CHECKING:
    from zoo.models.gpt2.model import GPTModel


def plot_temperatures(
    model: GPTModel,
    prompt: str,
    out: str | Path,
    *,
    temperatures: Sequence[float] = (1.0, 0.1, 5.0),
    top_k: Sequence[int | None] = (None,),
    n_tokens: int = 10,
    force: bool = False,
) -> list[dict[str, Any]]:
    """Plot the probabilities of the next token at several temperatures and top_k into a file.

    Args:
        model: Model that predicts.
        prompt: Text before the next token.
        out: A .png, .pdf or .svg file.
        temperatures: Temperatures above 0; each has its own colour.
        top_k: Numbers of tokens to keep; None keeps all. Each has its own panel.
        n_tokens: Number of most probable tokens to plot.
        force: Whether to replace an existing file.

    Returns:
        One row per plotted token, temperature and top_k: {"id", "token", "temperature", "top_k", "probability"}.

    Raises:
        OptionError: A value is out of range, or the prompt is longer than the context.
        OutputError: out exists or cannot be written.
        MissingPackage: matplotlib is not installed.
    """
    figure, save = make_figure(out, max(6.4, 0.55 * n_tokens + 2), 0.6 + 2.6 * len(top_k))
    rows = next_tokens(model, prompt, temperatures=temperatures, top_k=top_k, n_tokens=n_tokens)
    names = list(dict.fromkeys((row["id"], row["token"]) for row in rows))
    panels = figure.subplots(len(top_k), sharex=True, squeeze=False)[:, 0]
    width = 0.8 / len(temperatures)
    for axes, k in zip(panels, top_k, strict=True):
        for i, temperature in enumerate(temperatures):
            heights = [r["probability"] for r in rows if (r["temperature"], r["top_k"]) == (temperature, k)]
            places = np.arange(len(names)) + (i - (len(temperatures) - 1) / 2) * width
            axes.bar(places, heights, width, label=f"temperature {temperature:g}")
        axes.set_ylabel("probability")
        axes.set_title("all tokens" if k is None else f"top {k}", fontsize="medium", loc="left")
    panels[0].legend(frameon=False)
    # "$" would start a formula. Spaces are made visible, because " moves" and "moves" are two tokens.
    labels = [name.replace(" ", "\u2423").replace("\n", "\u21b5").replace("$", r"\$") for _, name in names]
    panels[-1].set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor")
    shown = prompt if len(prompt) <= 60 else f"...{prompt[-57:]}"
    figure.suptitle(" ".join(f'"{shown}"'.split()).replace("$", r"\$"), fontsize="medium")
    save(force)
    return rows


def next_tokens(
    model: GPTModel, prompt: str, *, temperatures: Sequence[float], top_k: Sequence[int | None], n_tokens: int
) -> list[dict[str, Any]]:
    """Compute the rows of plot_temperatures, with the same arguments and errors."""
    import torch

    from zoo.generation.options import GenerationOptions
    from zoo.generation.sampler import Sampler

    for temperature in temperatures:
        for k in top_k:
            GenerationOptions(temperature=temperature, top_k=k)  # raises if either is out of range
        if temperature == 0:
            raise OptionError("temperature 0 has no distribution to plot: it always takes the most probable token")
    if not temperatures or not top_k or n_tokens < 1:
        raise OptionError("there is nothing to plot: give at least one temperature and one token")
    ids = model.tokenizer.encode(prompt) or ([] if model.tokenizer.eos_id is None else [model.tokenizer.eos_id])
    if not ids or max(ids) >= model.config.vocab_size:
        raise OptionError("the prompt has no tokens in this model's vocabulary; give another prompt")
    device = model.tok_emb.weight.device
    with torch.no_grad():
        tokens = torch.tensor([ids[-model.config.context_length :]], device=device)
        logits = model(tokens)[0, -1, : model.config.vocab_size].float().cpu()
    best = logits.topk(min(n_tokens, len(logits))).indices.tolist()
    rows = []
    for k in top_k:
        for temperature in temperatures:
            options = GenerationOptions(temperature=temperature, top_k=k, top_p=None)
            probs = Sampler(options, 0).distribution(logits.numpy(), ids)
            rows += [
                {
                    "id": i,
                    "token": model.tokenizer.decode([i]),
                    "temperature": temperature,
                    "top_k": k,
                    "probability": float(probs[i]),
                }
                for i in best
            ]
    return rows
