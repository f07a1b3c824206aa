"""The sampler: its filters on hand-written distributions, its ties, its draws."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from zoo.errors import OptionError
from zoo.generation.options import GenerationOptions
from zoo.generation.sampler import Sampler, best, draw, logprobs

NINE_WORDS = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
NINE_LOGITS = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79], np.float32)

# Multiples of 1/4, so that ties are common and exact.
coarse = st.lists(st.integers(-20, 20), min_size=1, max_size=40).map(lambda xs: np.array(xs, np.float32) / 4)


def log(*probs):
    """Logits of these probabilities; those of 0 are as low as float32 allows."""
    return np.log(np.array(probs, np.float64).clip(1e-300)).clip(-600).astype(np.float32)


def probabilities(logits, *, ids=(), n_prompt=0, **options):
    """The probabilities with which tokens are drawn; filters and temperature are off unless given."""
    options = GenerationOptions(**{"top_p": None, "temperature": 1.0, **options})
    return Sampler(options, n_prompt).distribution(np.asarray(logits, np.float32), list(ids))


def kept(logits, **options):
    """The ids that may be drawn."""
    return np.flatnonzero(probabilities(logits, **options)).tolist()


def sample(logits, *, ids=(), n_prompt=0, **options):
    """One drawn id."""
    sampler = Sampler(GenerationOptions(**{"top_p": None, "temperature": 1.0, "seed": 1, **options}), n_prompt)
    return sampler.pick(np.asarray(logits, np.float32), list(ids))


class Fixed:
    """A generator that always gives the same number."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


class TestTopK:
    def test_by_hand(self):
        """The two largest stay, in proportion."""
        assert probabilities([1.0, 5.0, 2.0], top_k=2) == pytest.approx(
            [0, 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(3))]
        )

    def test_ties_keep_the_lowest_ids(self):
        """Of four equal logits at the edge, as many stay as there is room for, lowest ids first."""
        assert kept([3.0, 1.0, 3.0, 3.0, 3.0], top_k=3) == [0, 2, 3]
        assert kept([3.0, 5.0, 3.0, 3.0, 4.0], top_k=2) == [1, 4]

    @given(coarse, st.integers(1, 50))
    def test_is_a_stable_sort(self, logits, k):
        """What stays is the head of a stable sort, exactly k or the whole vocabulary."""
        expected = sorted(range(len(logits)), key=lambda i: (-logits[i].item(), i))[:k]

        assert sorted(expected) == kept(logits, top_k=k)

    def test_more_than_the_vocabulary(self):
        """A k of the vocabulary's size or more changes nothing."""
        assert (probabilities(NINE_LOGITS) == probabilities(NINE_LOGITS, top_k=9)).all()
        assert (probabilities(NINE_LOGITS) == probabilities(NINE_LOGITS, top_k=1000)).all()


class TestTopP:
    @pytest.mark.parametrize(
        ("p", "expected"),
        [(1e-9, [0]), (0.49, [0]), (0.51, [0, 2]), (0.74, [0, 2]), (0.8, [0, 1, 2]), (0.9, [0, 1, 2, 3])],
    )
    def test_smallest_set(self, p, expected):
        """The smallest set that reaches p stays, at least one token."""
        assert expected == kept(log(0.5, 0.125, 0.25, 0.125), top_p=p)

    def test_ties_keep_the_lowest_ids(self):
        """Of equal tokens at the edge, the lowest ids stay; to reach p exactly (3/8 here) is enough."""
        assert kept(np.zeros(8), top_p=0.375) == [0, 1, 2]
        assert kept(log(0.125, 0.25, 0.25, 0.125, 0.25), top_p=0.7) == [1, 2, 4]

    @given(coarse, st.floats(0.01, 0.99))
    def test_is_a_stable_sort(self, logits, p):
        """What stays is the shortest head of a stable sort that reaches p."""
        order = sorted(range(len(logits)), key=lambda i: (-logits[i].item(), i))
        probs = np.exp(logits.astype(np.float64) - logits.max())
        probs = (probs / probs.sum()).tolist()
        sums = [math.fsum(probs[i] for i in order[:n]) for n in range(len(order) + 1)]
        assume(all(abs(total - p) > 1e-9 for total in sums))
        expected = order[: next(n for n, total in enumerate(sums) if total >= p)]

        assert sorted(expected) == kept(logits, top_p=p)

    def test_one_changes_nothing(self):
        """With p = 1 even what rounding would lose stays."""
        assert kept([0.0, -60.0, -200.0], top_p=1.0) == [0, 1, 2]


class TestMinP:
    @pytest.mark.parametrize(("p", "expected"), [(0.0, [0, 1, 2, 3]), (0.3, [0, 1, 2]), (0.6, [0]), (1.0, [0])])
    def test_by_hand(self, p, expected):
        """Tokens of at least p times 0.5 stay."""
        assert expected == kept(log(0.5, 0.2, 0.2, 0.1), min_p=p)

    def test_equals_of_the_most_probable_stay(self):
        """With p = 1 every token as probable as the first stays."""
        assert kept([2.0, 1.0, 2.0], min_p=1.0) == [0, 2]


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.3, 9.0, 1e36])
@pytest.mark.parametrize("options", [{"top_k": 50}, {"top_p": 0.95}, {"top_k": 900, "top_p": 0.5}, {"top_p": 1e-9}])
def test_a_whole_vocabulary_keeps_what_a_sort_would_keep(spread, options):
    """Of 50,257 logits, flat or far apart or all equal: the kept tokens are those of a stable sort and running sums."""
    logits = (np.random.default_rng(3).normal(size=50257) * spread).round(6).astype(np.float32)
    exact = logits.astype(np.float64)
    order = np.argsort(-exact, kind="stable")[: options.get("top_k")]
    probs = np.exp((exact[order] - exact[order[0]]) / 1.3)
    if "top_p" in options:
        order = order[probs.cumsum() - probs < options["top_p"] * probs.sum()]
    order = order[: (probs > 0).sum()]

    assert sorted(order) == kept(logits, temperature=1.3, **options)


@given(
    logits=st.lists(st.integers(-12, 12), min_size=2, max_size=40),
    top_k=st.none() | st.integers(1, 45),
    top_p=st.none() | st.sampled_from([0.0913, 0.6137, 0.9871]),
    min_p=st.none() | st.sampled_from([0.0317, 0.4339]),
    temperature=st.sampled_from([0.37, 1.0, 2.1]),
    number=st.sampled_from([0.0, 0.1237, 0.5171, 0.9113, 0.99999]),
)
def test_a_number_draws_as_the_shares_of_a_stable_sort_say(logits, top_k, top_p, min_p, temperature, number):
    """All filters together, one after another as transformers applies them, and many equal logits."""
    logits = np.array(logits, np.float32) / 2
    order = np.argsort(-logits, kind="stable")[:top_k]
    probs = np.exp((logits[order].astype(np.float64) - logits.max()) / temperature)
    stays = np.ones(len(order), bool) if top_p is None else probs.cumsum() - probs < top_p * probs.sum()
    order, probs = order[stays], probs[stays]
    stays = probs >= (min_p or 0) * probs[0]
    ids = np.sort(order[stays])
    shares = np.exp((logits[ids].astype(np.float64) - logits.max()) / temperature)
    expected = ids[np.searchsorted((shares / shares.sum()).cumsum(), number, side="right")]

    sampler = Sampler(GenerationOptions(top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature), 0)
    sampler.generator = Fixed(number)
    assert expected == sampler.pick(logits, [])


@given(sizes=st.lists(st.sampled_from([0.0, 1e-300, 0.5, 7.0]), min_size=1, max_size=700).filter(any))
def test_a_draw_is_the_place_in_the_running_sum(sizes):
    """At every number from 0 to nearly 1, and never a weight of nothing."""
    weights = np.array(sizes)
    for number in (0.0, 0.25, 0.6180339887, 0.75, np.nextafter(1, 0)):
        found = draw(weights, number)
        assert weights[found] > 0
        below, upto = weights[:found].sum(), weights[: found + 1].sum()
        assert below <= number * weights.sum() * (1 + 1e-12) and number * weights.sum() <= upto * (1 + 1e-12)


class TestLogprobs:
    def test_they_are_those_of_a_softmax_in_float64(self):
        """Of a whole vocabulary, whose best logit is far above zero; so are those of the best tokens, in order."""
        logits = (np.random.default_rng(4).normal(size=50257) * 5 + 1000).astype(np.float32)
        exact = logits.astype(np.float64) - 1000
        expected = exact - np.log(np.exp(exact).sum())

        assert logprobs(logits, [0, 7, 500]) == pytest.approx(expected[[0, 7, 500]], abs=1e-4)
        ids, values = zip(*best(logits, 5), strict=True)
        assert list(ids) == np.argsort(-logits, kind="stable")[:5].tolist()
        assert list(values) == pytest.approx(expected[list(ids)], abs=1e-4)

    def test_best_of_equals_are_the_lowest_ids(self):
        """At the edge and in the order."""
        assert [token for token, _ in best(np.array([3.0, 5.0, 5.0, 3.0, 3.0], np.float32), 4)] == [1, 2, 0, 3]
        assert best(np.array([1.0, 2.0], np.float32), 0) == ()

    def test_the_largest_logits(self):
        """Logits near the end of float32 give probabilities, and draws, without overflow."""
        logits = np.array([3.3e38, -3.3e38, 3.3e38], np.float32)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            assert logprobs(logits, [0, 2]) == pytest.approx([math.log(0.5)] * 2)
            assert logprobs(logits, [1])[0] < -6e38
            assert {sample(logits, seed=i, top_p=1.0, repetition_penalty=1e6, ids=[1]) for i in range(20)} == {0, 2}


class TestPenalties:
    def test_repetition_by_hand(self):
        """As in CTRL, positive logits are divided and negative ones multiplied, of tokens that occurred only."""
        found = probabilities([3.0, -3.0, 3.0, -3.0, 0.0], ids=[0, 1, 4, 0], repetition_penalty=1.5)

        assert found == pytest.approx(probabilities([2.0, -4.5, 3.0, -3.0, 0.0]))

    def test_repetition_comes_before_the_temperature(self):
        """Dividing first by the penalty, then by the temperature, leaves these two tokens equally probable."""
        found = probabilities([4.0, 2.0], ids=[0], repetition_penalty=2.0, temperature=0.1)

        assert found.tolist() == [0.5, 0.5]

    def test_presence_and_frequency_by_hand(self):
        """Of generated tokens one is subtracted once, the other for each occurrence; the prompt does not count."""
        found = probabilities(
            [1.0, 2.0, 3.0, 4.0], ids=[0, 0, 2, 3, 2], n_prompt=2, presence_penalty=0.5, frequency_penalty=0.25
        )

        assert found == pytest.approx(probabilities([1.0, 2.0, 3.0 - 0.5 - 2 * 0.25, 4.0 - 0.5 - 0.25]))

    def test_no_run_is_repeated(self):
        """After "1 2" a third time neither 3 nor 4 may follow again with 3; with 1, no token that occurred."""
        ids = [1, 2, 3, 1, 2, 4, 1, 2]

        assert kept(np.zeros(6), ids=ids, no_repeat_ngram_size=3) == [0, 1, 2, 5]
        assert kept(np.zeros(6), ids=ids, no_repeat_ngram_size=2) == [0, 1, 2, 5]
        assert kept(np.zeros(6), ids=ids, no_repeat_ngram_size=1) == [0, 5]
        assert kept(np.zeros(6), ids=ids, no_repeat_ngram_size=9) == [0, 1, 2, 3, 4, 5]
        assert sample([5.0, 1.0, 9.0], ids=[2], no_repeat_ngram_size=1, temperature=0) == 0

    def test_no_token_left(self):
        """If every token would repeat something, that is an error with the option's name."""
        with pytest.raises(OptionError, match="no_repeat_ngram_size of 1 leaves no token"):
            sample([1.0, 2.0], ids=[0, 1], no_repeat_ngram_size=1)


class TestGreedy:
    def test_argmax(self):
        """Temperature 0 takes the largest logit, whatever the filters."""
        assert sample(NINE_LOGITS, temperature=0) == 3
        assert sample(NINE_LOGITS, temperature=0, top_k=2, top_p=0.01, min_p=1.0) == 3

    @pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}], ids=str)
    def test_ties_take_the_lowest_id(self, options):
        """Of equals, the lowest id: at temperature 0, and alike with k = 1 and with the smallest p."""
        logits = [1.0, 4.0, 4.0, 0.0, 4.0]

        assert {1} == {sample(logits, seed=seed, **options) for seed in range(30)}

    @given(coarse)
    def test_same_as_one_token_left(self, logits):
        """A top_k of 1 is temperature 0."""
        assert sample(logits, temperature=0) == sample(logits, top_k=1)

    def test_smallest_and_largest_temperature(self):
        """The ends of the range neither overflow nor divide by zero."""
        logits = [1000.0, 999.0, -1000.0]

        assert {0} == {sample(logits, temperature=1e-6, seed=seed) for seed in range(10)}
        assert {0, 1, 2} == {sample(logits, temperature=1e6, seed=seed) for seed in range(30)}


class TestDraws:
    def test_impossible_tokens_are_never_drawn(self):
        """From [0.9, 0, 0, 0.1] come 0 and 3, about nine to one."""
        counts = Counter(sample(log(0.9, 0.0, 0.0, 0.1), seed=seed) for seed in range(1000))

        assert {0, 3} == set(counts)
        assert 870 < counts[0] < 930

    @pytest.mark.parametrize(
        "options", [{"top_p": 1.0}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2}, {"temperature": 0.5}]
    )
    @pytest.mark.parametrize("source", ["numpy", "torch"])
    def test_shares_are_probabilities(self, options, source):
        """Of 4000 draws, each token's share is within four standard deviations of its probability."""
        logits = [2.0, 1.0, 1.0, 0.5, -1.0, -3.0]
        sampler = Sampler(GenerationOptions(**{"top_p": None, "temperature": 1.0, **options}, seed=1, draw=source), 0)
        draws = [sampler.pick(np.array(logits, np.float32), []) for _ in range(4000)]

        for token, p in enumerate(probabilities(logits, **options)):
            assert abs(draws.count(token) / 4000 - p) <= 4 * math.sqrt(p * (1 - p) / 4000)

    @pytest.mark.parametrize("source", ["numpy", "torch"])
    def test_global_generators_are_untouched(self, source):
        """Neither a seeded nor an unseeded sampler moves torch's or numpy's."""
        states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        for seed in (3, None):
            sample(np.zeros(9), seed=seed, draw=source)

        assert torch.equal(states[0], torch.random.get_rng_state())
        assert (states[1] == np.random.get_state()[1]).all()

    @pytest.mark.parametrize("source", ["numpy", "torch"])
    def test_no_seed_is_fresh(self, source):
        """Without a seed, draws differ."""
        assert len({sample(np.zeros(10**6), seed=None, draw=source) for _ in range(3)}) == 3


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
        sampler = Sampler(GenerationOptions(temperature=temperature, top_p=None, seed=123, draw="torch"), 0)
        counts = Counter(sampler.pick(NINE_LOGITS, []) for _ in range(1000))

        assert expected == " ".join(f"{counts[i]} {word}" for i, word in enumerate(NINE_WORDS) if counts[i])

    def test_argmax(self):
        """The most probable word is forward."""
        assert NINE_WORDS[sample(NINE_LOGITS, temperature=0)] == "forward"

    def test_top_3(self):
        """The three words left have the printed probabilities; pizza has 0.0430 at temperature 5."""
        found = probabilities(NINE_LOGITS, top_k=3)

        assert np.flatnonzero(found).tolist() == [0, 3, 7]
        assert [round(p, 4) for p in found[[0, 3, 7]]] == [0.0615, 0.5775, 0.3610]
        assert round(probabilities(NINE_LOGITS, temperature=5)[6], 4) == 0.0430


REFUSED = [
    ("temperature", -0.1, "temperature must be 0, or from 1e-06 to 1e+06, not -0.1"),
    ("temperature", 1e-9, "temperature must be 0, or from 1e-06 to 1e+06, not 1e-09"),
    ("temperature", math.nan, "temperature must be 0, or from 1e-06 to 1e+06, not nan"),
    ("temperature", math.inf, "temperature must be 0, or from 1e-06 to 1e+06, not inf"),
    ("temperature", None, "temperature must be 0, or from 1e-06 to 1e+06, not None"),
    ("top_k", 0, "top_k must be an integer of at least 1, not 0"),
    ("top_k", 1.5, "top_k must be an integer of at least 1, not 1.5"),
    ("top_k", True, "top_k must be an integer of at least 1, not True"),
    ("top_p", 0.0, "top_p must be above 0 and at most 1, not 0.0"),
    ("top_p", 1.01, "top_p must be above 0 and at most 1, not 1.01"),
    ("min_p", -0.5, "min_p must be from 0 to 1, not -0.5"),
    ("min_p", "much", "min_p must be from 0 to 1, not 'much'"),
    ("repetition_penalty", 0, "repetition_penalty must be from 1e-06 to 1e+06, not 0"),
    ("presence_penalty", math.nan, "presence_penalty must be from -100 to 100, not nan"),
    ("frequency_penalty", 101, "frequency_penalty must be from -100 to 100, not 101"),
    ("no_repeat_ngram_size", -1, "no_repeat_ngram_size must be an integer of at least 0, not -1"),
    ("top_logprobs", 1001, "top_logprobs must be an integer from 0 to 1000, not 1001"),
    ("draw", "dice", "draw must be numpy or torch, not 'dice'"),
    ("seed", -1, "seed must be an integer from 0 to 2**63 - 1, not -1"),
    ("seed", 2**63, f"seed must be an integer from 0 to 2**63 - 1, not {2**63}"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=[f"{n}={v!r}" for n, v, _ in REFUSED])
def test_refusals(name, value, message):
    """An option outside its range is refused with its name, range and value."""
    with pytest.raises(OptionError) as caught:
        GenerationOptions(**{name: value})

    assert message == str(caught.value)


@pytest.mark.peers
@pytest.mark.parametrize("seed", range(5))
def test_transformers_agrees(seed):
    """On logits without ties, transformers' filters leave the same tokens with the same probabilities."""
    process = pytest.importorskip("transformers.generation.logits_process")
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 501, generator=generator) * 3
    ids = torch.randint(501, (1, 40), generator=generator)
    pairs = [
        ({"top_k": 17}, process.TopKLogitsWarper(17)),
        ({"top_p": 0.9}, process.TopPLogitsWarper(0.9)),
        ({"min_p": 0.1}, process.MinPLogitsWarper(0.1)),
        ({"repetition_penalty": 1.3}, process.RepetitionPenaltyLogitsProcessor(1.3)),
        ({"no_repeat_ngram_size": 2}, process.NoRepeatNGramLogitsProcessor(2)),
    ]
    for options, processor in pairs:
        ids[0, 7] = ids[0, -1]  # something to repeat
        expected = processor(ids, logits)[0].double().softmax(-1).numpy()
        assert probabilities(logits[0], ids=ids[0].tolist(), **options) == pytest.approx(expected, rel=1e-5, abs=0)
