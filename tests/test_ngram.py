"""The n-gram models of benchmarks/ngram.py are distributions, and are those of the formula."""

import numpy as np
from ngram import losses, train, unigram_loss

V = 7


def text(n=400, seed=2):
    """Tokens with some structure: each is likely to be the last one plus one."""
    random = np.random.default_rng(seed)
    tokens = [0]
    for _ in range(n):
        tokens.append((tokens[-1] + 1) % V if random.random() < 0.6 else int(random.integers(V)))
    return np.array(tokens)


def test_probabilities_of_all_tokens_sum_to_one():
    """After any context, seen or not."""
    orders = train(text(), 3, V)
    for context in ([0, 1], [3, 3], [6, 0]):
        total = sum(np.exp(-losses(orders, np.array([*context, token]), V)[-1]) for token in range(V))
        assert abs(total - 1) < 1e-12


def test_the_trigram_is_the_one_written_out_by_hand():
    """Interpolated, modified Kneser-Ney with dictionaries instead of sorted arrays."""
    tokens = text().tolist()
    grams = {n: [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)] for n in (1, 2, 3)}
    counts = {3: {g: grams[3].count(g) for g in set(grams[3])}}
    for n in (2, 1):
        longer = set(grams[n + 1])
        counts[n] = {g: sum(each[1:] == g for each in longer) for g in set(grams[n])}

    def probability(n, context, token):
        if n == 0:
            return 1 / V
        table, of = counts[n], list(counts[n].values())
        n1, n2, n3, n4 = (max(1, of.count(i)) for i in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        cut = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3, 0: 0}
        behind = {g: c for g, c in table.items() if g[:-1] == context}
        total = sum(behind.values())
        lower = probability(n - 1, context[1:], token)
        if not total:
            return lower
        count = behind.get((*context, token), 0)
        taken = sum(cut[min(c, 3)] for c in behind.values()) / total
        return (count - cut[min(count, 3)]) / total + taken * lower

    orders = train(np.array(tokens), 3, V)
    held_out = text(60, seed=5)
    found = losses(orders, held_out, V)
    for i in range(2, len(held_out)):
        expected = probability(3, tuple(held_out[i - 2 : i].tolist()), int(held_out[i]))
        assert abs(np.exp(-found[i - 1]) - expected) < 1e-12


def test_the_unigram_adds_one():
    """A token that never came has one count."""
    assert np.isclose(unigram_loss(np.array([1, 1, 2]), np.array([0, 1, 3]), 4), -np.log([3 / 7, 1 / 7]).mean())
