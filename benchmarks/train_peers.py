"""One training step of each contender of benchmarks/train.py, written as its origin describes it."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo

VOCABULARY, WIDTH, LAYERS, HEADS = 50257, 768, 12, 12


@dataclass(frozen=True)
class Settings:
    """Settings that all contenders share."""

    context: int
    batch: int
    dropout: float
    bf16: bool

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield random tokens and their targets, the same for all contenders."""
        generator = torch.Generator().manual_seed(1)
        while True:
            ids = torch.randint(VOCABULARY, (self.batch, self.context + 1), generator=generator)
            yield ids[:, :-1], ids[:, 1:]

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context of the loss."""
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()


def book(settings: Settings) -> Iterator[float]:
    """The book's model and loop: everything spelled out in plain tensor operations, untied head, AdamW as it comes."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    from book_model import BookModel

    torch.manual_seed(123)
    config = {"vocab_size": VOCABULARY, "context_length": settings.context, "emb_dim": WIDTH, "n_heads": HEADS}
    model = BookModel({**config, "n_layers": LAYERS, "drop_rate": settings.dropout, "qkv_bias": False}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    for ids, targets in settings.batches():
        optimizer.zero_grad()
        with settings.autocast():
            loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        yield loss.item()


class NanoBlock(nn.Module):
    """nanoGPT's block: fused qkv, scaled_dot_product_attention, nn.LayerNorm, exact GELU."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(dropout)
        )
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], HEADS, WIDTH // HEADS)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(WIDTH, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)
        x = x + F.dropout(self.c_proj(y.transpose(1, 2).contiguous().view(x.shape)), self.dropout)
        return x + self.mlp(self.ln_2(x))


class NanoModel(nn.Module):
    """nanoGPT's model with the head tied, and its vocabulary padded to a multiple of 64."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(50304, WIDTH), nn.Embedding(settings.context, WIDTH)
        self.drop = nn.Dropout(settings.dropout)
        self.h = nn.ModuleList([NanoBlock(settings.dropout) for _ in range(LAYERS)])
        self.ln_f = nn.LayerNorm(WIDTH)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.drop(self.wte(ids) + self.wpe(torch.arange(ids.shape[1])))
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-1)


def nanogpt(settings: Settings) -> Iterator[float]:
    """A step as nanoGPT's train.py: autocast, gradients clipped at 1, decay on matrices only, gradients freed."""
    torch.manual_seed(1337)
    model = NanoModel(settings).train()
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    # nanoGPT requests the fused optimizer on CUDA only; it is used here, too, so that only the rest is compared.
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    for ids, targets in settings.batches():
        with settings.autocast():
            loss = model(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()


def transformers(settings: Settings, step: Callable[[float | None], None]) -> None:
    """transformers' GPT2LMHeadModel under its Trainer, which calls step(loss) after every step.

    The Trainer has its own loop, so this is not a generator: step() blocks until the next step is requested.
    """
    import transformers as hf

    warnings.filterwarnings("ignore")
    hf.logging.set_verbosity_error()
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), settings.dropout)
    model = hf.GPT2LMHeadModel(hf.GPT2Config(n_positions=settings.context, use_cache=False, **drop))

    class Data(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            for ids, _ in settings.batches():
                yield from ({"input_ids": row, "labels": row} for row in ids)

    class Callback(hf.TrainerCallback):
        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            step(None)

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            step(0.0)

    arguments = hf.TrainingArguments(
        tempfile.mkdtemp(),  # the Trainer creates its directory even if nothing is saved
        per_device_train_batch_size=settings.batch,
        max_steps=10**6,
        learning_rate=4e-4,
        weight_decay=0.1,
        bf16=settings.bf16,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    hf.Trainer(model=model, args=arguments, train_dataset=Data(), callbacks=[Callback()]).train()


def zoo_step(settings: Settings) -> Iterator[float]:
    """zoo's own parts, as `zoo train` combines them, with its defaults."""
    from zoo.models.gpt2.cpu_ops import draw_quickly
    from zoo.train.step.loss import LanguageModelLoss
    from zoo.train.step.optimization import make_optimizer, train_step

    torch.manual_seed(1)
    config = zoo.get_config("gpt2-small").replace(context_length=settings.context, dropout=settings.dropout)
    model = zoo.create(config, seed=1).train()
    model.set_draw(draw_quickly)
    loss, optimizer = LanguageModelLoss(model), make_optimizer(model, lr=4e-4)
    dtype = "bfloat16" if settings.bf16 else "float32"
    for step, batch in enumerate(settings.batches()):
        yield train_step(loss, optimizer, [batch], step=step, lr=4e-4, dtype=dtype).loss


CONTENDERS = {"zoo": zoo_step, "book": book, "nanogpt": nanogpt}
