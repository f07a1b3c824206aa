"""The sampler: its filters on hand-written distributions, its ties, its draws."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from zoo.errors import OptionError
from zoo.generation.options import Sampling
from zoo.generation.sampler import (
    choose,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    make_generator,
    make_sampler,
    penalise_repetition,
)

NINE_WORDS = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
NINE_LOGITS = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])

# Multiples of 1/4, so that ties are common and exact.
coarse = st.lists(st.integers(-20, 20), min_size=1, max_size=40).map(lambda xs: torch.tensor(xs) / 4)


def log(*probs):
    """Logits of these probabilities."""
    return torch.tensor(probs).log()


def kept(logits):
    """The ids that a filter left."""
    return logits.isfinite().nonzero().flatten().tolist()


def sample(logits, *, ids=(), **options):
    """One id, drawn from logits (V,) by options, without a default filter."""
    sampling = Sampling(**{"top_p": None, "seed": 1, **options})
    return make_sampler(sampling)(logits[None], [list(ids)], [make_generator(sampling.seed)]).item()


class TestTopK:
    def test_by_hand(self):
        """The two largest stay, unchanged."""
        assert torch.equal(keep_top_k(torch.tensor([1.0, 5.0, 2.0]), 2), torch.tensor([-math.inf, 5.0, 2.0]))

    def test_ties_keep_the_lowest_ids(self):
        """Of four equal logits at the edge, as many stay as there is room for, lowest ids first."""
        assert kept(keep_top_k(torch.tensor([3.0, 1.0, 3.0, 3.0, 3.0]), 3)) == [0, 2, 3]
        assert kept(keep_top_k(torch.tensor([3.0, 5.0, 3.0, 3.0, 4.0]), 2)) == [1, 4]

    @given(coarse, st.integers(1, 50))
    def test_is_a_stable_sort(self, logits, k):
        """What stays is the head of a stable sort, exactly k or the whole vocabulary."""
        expected = sorted(range(len(logits)), key=lambda i: (-logits[i].item(), i))[:k]

        assert sorted(expected) == kept(keep_top_k(logits, k))

    def test_rows(self):
        """Each row of a batch has its own threshold."""
        logits = torch.tensor([[1.0, 5.0, 2.0], [7.0, 7.0, 7.0]])

        assert [kept(row) for row in keep_top_k(logits, 2)] == [[1, 2], [0, 1]]

    def test_excluded_tokens_stay_excluded(self):
        """More places than possible tokens do not bring impossible ones back."""
        assert kept(keep_top_k(log(0.9, 0.0, 0.0, 0.1), 3)) == [0, 3]

    def test_more_than_the_vocabulary(self):
        """A k of the vocabulary's size or more changes nothing."""
        assert torch.equal(NINE_LOGITS, keep_top_k(NINE_LOGITS, 9))
        assert torch.equal(NINE_LOGITS, keep_top_k(NINE_LOGITS, 1000))


class TestTopP:
    @pytest.mark.parametrize(
        ("p", "expected"),
        [(1e-9, [0]), (0.49, [0]), (0.51, [0, 2]), (0.74, [0, 2]), (0.8, [0, 1, 2]), (0.9, [0, 1, 2, 3])],
    )
    def test_smallest_set(self, p, expected):
        """The smallest set that reaches p stays, at least one token."""
        assert expected == kept(keep_top_p(log(0.5, 0.125, 0.25, 0.125), p))

    def test_ties_keep_the_lowest_ids(self):
        """Of equal tokens at the edge, the lowest ids stay; to reach p exactly (3/8 here) is enough."""
        assert kept(keep_top_p(torch.zeros(8), 0.375)) == [0, 1, 2]
        assert kept(keep_top_p(log(0.125, 0.25, 0.25, 0.125, 0.25), 0.7)) == [1, 2, 4]

    @given(coarse, st.floats(0.01, 0.99))
    def test_is_a_stable_sort(self, logits, p):
        """What stays is the shortest head of a stable sort that reaches p."""
        order = sorted(range(len(logits)), key=lambda i: (-logits[i].item(), i))
        probs = logits.double().softmax(-1).tolist()
        sums = [math.fsum(probs[i] for i in order[:n]) for n in range(len(order) + 1)]
        assume(all(abs(total - p) > 1e-5 for total in sums))
        expected = order[: next(n for n, total in enumerate(sums) if total >= p)]

        assert sorted(expected) == kept(keep_top_p(logits, p))

    def test_one_changes_nothing(self):
        """With p = 1 stays even what rounding would lose."""
        logits = torch.tensor([0.0, -60.0, -200.0])

        assert torch.equal(logits, keep_top_p(logits, 1.0))

    def test_rows(self):
        """Each row of a batch has its own set, of its own size, whatever the other rows."""
        logits = torch.stack([log(0.9, 0.05, 0.05, 0.0), log(0.25, 0.25, 0.25, 0.25), log(0.1, 0.2, 0.3, 0.4)])

        assert [kept(row) for row in keep_top_p(logits, 0.85)] == [[0], [0, 1, 2, 3], [1, 2, 3]]
        for row in logits:
            assert torch.equal(keep_top_p(row, 0.85), keep_top_p(torch.stack([row, logits[1]]), 0.85)[0])

    def test_large_vocabulary(self):
        """With 50257 tokens the kept ones reach p, and without the least of them would not."""
        logits = torch.randn(50257, generator=make_generator(1)) * 3
        probs = logits.double().softmax(-1)
        left = probs[kept(keep_top_p(logits, 0.9))]

        assert 0.9 - 1e-5 < left.sum() < 0.9 + left.min() + 1e-5


class TestMinP:
    @pytest.mark.parametrize(("p", "expected"), [(0.0, [0, 1, 2, 3]), (0.3, [0, 1, 2]), (0.6, [0]), (1.0, [0])])
    def test_by_hand(self, p, expected):
        """Tokens of at least p times 0.5 stay."""
        assert expected == kept(keep_min_p(log(0.5, 0.2, 0.2, 0.1), p))

    def test_equals_of_the_most_probable_stay(self):
        """With p = 1 stays every token as probable as the first."""
        assert kept(keep_min_p(torch.tensor([2.0, 1.0, 2.0]), 1.0)) == [0, 2]


class TestRepetitionPenalty:
    def test_by_hand(self):
        """As in CTRL, positive logits are divided and negative ones multiplied, of seen tokens only."""
        logits = torch.tensor([3.0, -3.0, 3.0, -3.0, 0.0])
        seen = torch.tensor([True, True, False, False, True])

        assert penalise_repetition(logits, seen, 1.5).tolist() == [2.0, -4.5, 3.0, -3.0, 0.0]

    def test_rows_have_their_own_past(self):
        """A token counts once, however often it occurred, and in its own row only."""
        sampler = make_sampler(Sampling(temperature=0, repetition_penalty=2.0))
        logits = torch.tensor([[3.0, 2.0, 1.0]]).repeat(3, 1)
        ids = sampler(logits, [[0, 0, 0], [1], [0, 1]], [])

        assert ids.tolist() == [1, 0, 0]

    def test_comes_before_the_temperature(self):
        """Dividing first by the penalty, then by the temperature, leaves these two tokens equally probable."""
        counts = Counter(
            sample(torch.tensor([4.0, 2.0]), ids=[0], repetition_penalty=2.0, temperature=0.1, seed=i)
            for i in range(200)
        )

        assert 60 < counts[0] < 140


class TestGreedy:
    def test_argmax(self):
        """Temperature 0 takes the largest logit, whatever the filters."""
        assert sample(NINE_LOGITS, temperature=0) == 3
        assert sample(NINE_LOGITS, temperature=0, top_k=2, top_p=0.01, min_p=1.0) == 3

    @pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}], ids=str)
    def test_ties_take_the_lowest_id(self, options):
        """Of equals, the lowest id: at temperature 0, and alike with k = 1 and with the smallest p."""
        logits = torch.tensor([1.0, 4.0, 4.0, 0.0, 4.0])

        assert {1} == {sample(logits, seed=seed, **options) for seed in range(30)}

    @given(coarse)
    def test_same_as_one_token_left(self, logits):
        """A top_k of 1 is temperature 0."""
        assert sample(logits, temperature=0) == sample(logits, top_k=1)

    def test_smallest_and_largest_temperature(self):
        """The ends of the range neither overflow nor divide by zero."""
        logits = torch.tensor([1000.0, 999.0, -1000.0])

        assert {0} == {sample(logits, temperature=1e-6, seed=seed) for seed in range(10)}
        assert {0, 1, 2} == {sample(logits, temperature=1e6, seed=seed) for seed in range(30)}


class TestDraws:
    def test_impossible_tokens_are_never_drawn(self):
        """From [0.9, 0, 0, 0.1] come 0 and 3, about nine to one."""
        counts = Counter(sample(log(0.9, 0.0, 0.0, 0.1), seed=seed) for seed in range(1000))

        assert {0, 3} == set(counts)
        assert 870 < counts[0] < 930

    @given(coarse, st.integers(1, 5), st.floats(0.1, 1), st.floats(0, 1), st.integers(0, 2**63 - 1))
    def test_only_kept_tokens_are_drawn(self, logits, k, p, min_p, seed):
        """A drawn token passes every filter, in the documented order."""
        filtered = keep_min_p(keep_top_p(keep_top_k(logits / 0.7, k), p), min_p)

        assert sample(logits, temperature=0.7, top_k=k, top_p=p, min_p=min_p, seed=seed) in kept(filtered)

    def test_own_generators(self):
        """A row's draw depends on its generator and logits, not on the rows beside it."""
        logits = torch.randn(4, 97, generator=make_generator(5))
        together = choose(logits, [make_generator(seed) for seed in range(4)])
        alone = [choose(logits[i : i + 1], [make_generator(i)]).item() for i in range(4)]

        assert alone == together.tolist()

    def test_global_generator_is_untouched(self):
        """Neither a seeded nor an unseeded generator moves torch's."""
        state = torch.random.get_rng_state()
        choose(torch.zeros(2, 9), [make_generator(3), make_generator(None)])

        assert torch.equal(state, torch.random.get_rng_state())

    def test_no_seed_is_fresh(self):
        """Without a seed, generators differ."""
        assert make_generator(None).initial_seed() != make_generator(None).initial_seed()


class TestBook:
    """Chapter 5's nine words."""

    @pytest.mark.parametrize(
        ("temperature", "expected"),
        [
            (1, "73 closer 582 forward 2 inches 343 toward"),
            (0.1, "985 forward 15 toward"),
            (
                5,
                "165 closer 75 every 42 effort 239 forward 71 inches 46 moves 32 pizza 227 toward 103 you",
            ),
        ],
    )
    def test_counts(self, temperature, expected):
        """A thousand draws with seed 123 are the chapter's."""
        sampler = make_sampler(Sampling(temperature=temperature, top_p=None))
        generator = make_generator(123)
        counts = Counter(sampler(NINE_LOGITS[None], [[]], [generator]).item() for _ in range(1000))

        assert expected == " ".join(f"{counts[i]} {word}" for i, word in enumerate(NINE_WORDS) if counts[i])

    def test_argmax(self):
        """The most probable word is forward."""
        assert NINE_WORDS[sample(NINE_LOGITS, temperature=0)] == "forward"

    def test_top_3(self):
        """The three words left have the printed probabilities; pizza has 0.0430 at temperature 5."""
        filtered = keep_top_k(NINE_LOGITS, 3)

        assert kept(filtered) == [0, 3, 7]
        assert [round(p, 4) for p in filtered.softmax(-1)[[0, 3, 7]].tolist()] == [0.0615, 0.5775, 0.3610]
        assert round((NINE_LOGITS / 5).softmax(-1)[6].item(), 4) == 0.0430


REFUSED = [
    ("temperature", -0.1, "temperature must be 0, or from 1e-06 to 1e+06, not -0.1"),
    ("temperature", 1e-9, "temperature must be 0, or from 1e-06 to 1e+06, not 1e-09"),
    ("temperature", math.nan, "temperature must be 0, or from 1e-06 to 1e+06, not nan"),
    ("temperature", math.inf, "temperature must be 0, or from 1e-06 to 1e+06, not inf"),
    ("temperature", None, "temperature must be 0, or from 1e-06 to 1e+06, not None"),
    ("top_k", 0, "top_k must be a whole number of at least 1, or None, not 0"),
    ("top_k", 1.5, "top_k must be a whole number of at least 1, or None, not 1.5"),
    ("top_k", True, "top_k must be a whole number of at least 1, or None, not True"),
    ("top_p", 0.0, "top_p must be above 0 and at most 1, or None, not 0.0"),
    ("top_p", 1.01, "top_p must be above 0 and at most 1, or None, not 1.01"),
    ("min_p", -0.5, "min_p must be from 0 to 1, or None, not -0.5"),
    ("min_p", "much", "min_p must be from 0 to 1, or None, not 'much'"),
    ("repetition_penalty", 0, "repetition_penalty must be from 1e-06 to 1e+06, not 0"),
    ("seed", -1, "seed must be a whole number from 0 to 2**63 - 1, or None, not -1"),
    ("seed", 2**63, f"seed must be a whole number from 0 to 2**63 - 1, or None, not {2**63}"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=[f"{n}={v!r}" for n, v, _ in REFUSED])
def test_refusals(name, value, message):
    """An option outside its range is refused with its name, range and value."""
    with pytest.raises(OptionError) as caught:
        Sampling(**{name: value})

    assert message == str(caught.value)


@pytest.mark.peers
@pytest.mark.parametrize("seed", range(5))
def test_transformers_agrees(seed):
    """On logits without ties, transformers' filters leave the same tokens with the same logits."""
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.randn(3, 501, generator=make_generator(seed)) * 3
    ids = torch.randint(501, (3, 40), generator=make_generator(seed))
    seen = torch.zeros(3, 501, dtype=torch.bool).scatter_(1, ids, True)
    pairs = [
        (keep_top_k(logits, 17), process.TopKLogitsWarper(17)),
        (keep_top_p(logits, 0.9), process.TopPLogitsWarper(0.9)),
        (keep_min_p(logits, 0.1), process.MinPLogitsWarper(0.1)),
        (penalise_repetition(logits, seen, 1.3), process.RepetitionPenaltyLogitsProcessor(1.3)),
    ]
    for ours, warper in pairs:
        assert torch.equal(warper(ids, logits), ours)
