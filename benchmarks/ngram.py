"""What n-gram models trained on the same tokens have, in nats per token: the floor that a neural model must pass.

    python benchmarks/ngram.py train.bin val.bin [--orders 1 3 5] [--json]

The .bin files are those of `zoo data prepare`. The unigram model adds one to every count. The others are interpolated,
modified Kneser-Ney (Chen & Goodman, 1998): three discounts for each order from its counts of counts; lower orders count
the different tokens that come before, not occurrences; below the unigrams lies the uniform distribution.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.train.data.tokens import open_tokens

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Order:
    """The n-grams of length n."""

    keys: Ints
    counts: Ints
    totals: Floats
    backoff: Floats
    discounts: Floats


def train(tokens: Ints, n: int, vocab_size: int) -> list[Order]:
    """Count all n-grams up to a length."""
    ids = [tokens]  # ids[k][i]: id of the (k + 1)-gram that starts at i
    keys = [np.arange(vocab_size)]
    for _ in range(1, n):
        previous = ids[-1]
        # An n-gram is its first n - 1 tokens plus its last.
        length = len(previous) - 1
        key = previous[:length] * vocab_size + tokens[len(tokens) - length :]
        unique, inverse = np.unique(key, return_inverse=True)
        keys.append(unique)
        ids.append(inverse)
    orders = []
    for k in range(n):
        if k == n - 1:
            counts = np.bincount(ids[k], minlength=len(keys[k]))
        else:  # number of different preceding tokens: one per longer n-gram that ends in this one
            first = np.unique(ids[k + 1], return_index=True)[1]
            counts = np.bincount(ids[k][first + 1], minlength=len(keys[k]))
        contexts = keys[k] // vocab_size if k else np.zeros(vocab_size, np.int64)
        orders.append(_order(keys[k], counts, contexts, len(keys[k - 1]) if k else 1))
    return orders


def _order(keys: Ints, counts: Ints, contexts: Ints, n_contexts: int) -> Order:
    n1, n2, n3, n4 = (max(1, (counts == i).sum()) for i in (1, 2, 3, 4))  # in tiny texts, some counts never occur
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    taken = discounts[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts, n_contexts)
    backoff = np.bincount(contexts, taken, n_contexts) / np.maximum(totals, 1)
    return Order(keys, counts, totals, backoff, discounts)


def losses(orders: list[Order], tokens: Ints, vocab_size: int) -> Floats:
    """Return the loss of every token except the first, in nats, given as many earlier tokens as the model uses."""
    n = len(tokens) - 1
    prob = np.full(n, 1 / vocab_size)
    context = np.zeros(n, np.int64)  # id of the preceding tokens, as far as they occur in training
    for k, order in enumerate(orders):
        key = context * vocab_size + tokens[1:] if k else tokens[1:]
        place = np.minimum(np.searchsorted(order.keys, key), len(order.keys) - 1)
        seen = (order.keys[place] == key) & (context >= 0)
        total = np.where(context >= 0, order.totals[context], 0)
        known = total > 0
        count = np.where(seen, order.counts[place], 0)
        kept = (count - order.discounts[np.minimum(count, 3)]) / np.maximum(total, 1)
        prob = np.where(known, kept + order.backoff[context] * prob, prob)
        context = _grow(orders, tokens, k + 1, vocab_size)
    return -np.log(prob)


def _grow(orders: list[Order], tokens: Ints, k: int, vocab_size: int) -> Ints:
    """Return the id of the k tokens before each token except the first; -1 if they do not occur or are fewer."""
    n = len(tokens) - 1
    found = np.full(n, -1)
    if k > len(orders):
        return found
    ids = tokens[: n - k + 1].copy()  # ids of the k-grams that start at 0, 1, ...
    for j in range(1, k):
        key = ids * vocab_size + tokens[j : j + len(ids)]
        place = np.minimum(np.searchsorted(orders[j].keys, key), len(orders[j].keys) - 1)
        ids = np.where((ids >= 0) & (orders[j].keys[place] == key), place, -1)
    found[k - 1 :] = ids
    return found


def unigram_loss(train_tokens: Ints, tokens: Ints, vocab_size: int) -> float:
    """Return the mean loss of a unigram model with add-one smoothing."""
    counts = np.bincount(train_tokens, minlength=vocab_size) + 1
    return float(-np.log(counts[tokens[1:]] / counts.sum()).mean())


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("val")
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    first, second = (np.asarray(open_tokens(path), np.int64) for path in (options.train, options.val))
    found = {}
    for n in options.orders:
        if n == 1:
            found[n] = unigram_loss(first, second, options.vocab_size)
        else:
            orders = train(first, n, options.vocab_size)
            found[n] = float(losses(orders, second, options.vocab_size).mean())
        if not options.json:
            print(f"{n}-gram: {found[n]:.4f} nats per token")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
