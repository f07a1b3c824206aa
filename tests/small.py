"""Small models with wild weights, for tests: every size is another number, and no logits are flat."""

import torch

from zoo.generation.options import GenerationOptions
from zoo.models.gpt2.config import GPTConfig
from zoo.models.gpt2.model import GPTModel

SMALL = GPTConfig(vocab_size=97, context_length=23, width=30, n_heads=5, n_layers=2, dropout=0.3)
"""V 97, T 23, C 30, H 5, D 6, I 120."""


def small_model(config=SMALL, *, seed=2, dtype=torch.float64, tokenizer=None):
    """A model in evaluation mode whose parameters are all drawn from wide normal distributions."""
    model = GPTModel(config, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            # Token embeddings of one length, strong positions, weak biases: greedy text does not repeat one token.
            if name == "tok_emb.weight":
                noise *= (noise[0].numel() ** 0.5) / noise.norm(dim=1, keepdim=True)
            scale = 1.0 if name == "pos_emb.weight" else 0.05 if name.endswith("bias") else 0.3
            parameter.copy_(noise * scale + float("norm" in name and name.endswith("weight")))
    return model.to(dtype).eval()


def random_ids(*shape, seed=3, vocab_size=97):
    """Token ids, int64."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def ids_of(tokens):
    """The ids of some tokens."""
    return [token.id for token in tokens]


def text_of(tokens):
    """The texts of some tokens, joined."""
    return "".join(token.text for token in tokens)


def varied(n):
    """Prompts of 1 to 40 ids (the context is 23), each with options of its own; some end at an id."""
    for i in range(n):
        sampling = {"temperature": 0} if i % 3 == 0 else {"seed": 100 + i, "top_k": 5 + i, "top_p": 0.9}
        request = GenerationOptions(max_new_tokens=1 + i * 7 % 29, stop_ids=[i, i + 1, i + 2], **sampling)
        yield random_ids(1 + i * 11 % 40, seed=i).tolist(), request


class Scripted(GPTModel):
    """A model of GPT-2's vocabulary that always says the same tokens, one after the other."""

    def __init__(self, ids, context_length=64):
        super().__init__(GPTConfig(width=2, n_heads=1, n_layers=1, context_length=context_length))
        self.script, self.n_said = list(ids), 0

    def forward(self, ids, cache=None, last=None):
        logits = torch.ones(*ids.shape, 50257)
        logits[..., self.script[self.n_said]] = 30.0
        self.n_said += 1
        return logits[:, -1] if last is not None else logits
