"""The decode loop: cached = uncached, batched = alone, the window that slides, and a model left as it was."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL, Scripted, ids_of, random_ids, small_model, text_of, varied

from zoo.api.text import complete, complete_batch, generate, generate_batch, generate_many
from zoo.errors import OptionError, ZooError
from zoo.generation.options import GenerationOptions, Options

MODEL = small_model()
CONTEXT = SMALL.context_length
PROMPT = random_ids(9).tolist()
UNEQUAL = [random_ids(length, seed=length).tolist() for length in (4, 1, 11, 7)]


def by_text(pairs, n):
    """The tokens of n texts, sorted out."""
    texts = [[] for _ in range(n)]
    for i, token in pairs:
        texts[i].append(token)
    return texts


@torch.no_grad()
def book_generate(model, ids, n, *, seed=None, temperature=0.0, top_k=None):
    """The book's generate: no cache, the last context_length tokens every time, the global generator."""
    if seed is not None:
        torch.manual_seed(seed)
    ids = torch.tensor([ids])
    for _ in range(n):
        logits = model(ids[:, -model.config.context_length :])[:, -1].float()
        if top_k is not None:
            smallest = torch.topk(logits, top_k).values[:, -1:]
            logits = torch.where(logits < smallest, -math.inf, logits)
        if temperature > 0:
            chosen = torch.multinomial(torch.softmax(logits / temperature, -1), 1)
        else:
            chosen = logits.argmax(-1, keepdim=True)
        ids = torch.cat([ids, chosen], 1)
    return ids[0, -n:].tolist()


class TestCache:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("n", [14, 40], ids=["inside the context", "past it"])
    def test_cached_is_uncached(self, n, seed):
        """With the cache come the book's tokens, greedy and sampled, also where the window slides."""
        prompt = random_ids(9, seed=seed).tolist()
        sampled = {"seed": seed, "temperature": 1.4, "top_k": 25}
        with torch.random.fork_rng():
            expected = [book_generate(MODEL, prompt, n), book_generate(MODEL, prompt, n, **sampled)]
        got = [
            ids_of(generate(MODEL, prompt, max_new_tokens=n, temperature=0)),
            ids_of(generate(MODEL, prompt, max_new_tokens=n, top_p=None, draw="torch", **sampled)),
        ]

        assert expected == got
        assert len(set(got[1])) > 8

    def test_logprobs_are_the_models(self):
        """At every step, past the context too, the logprob is that of a pass without a cache: before any filter."""
        tokens = list(generate(MODEL, PROMPT, max_new_tokens=30, seed=1, temperature=0.5, top_k=3, min_p=0.1))
        ids = PROMPT + ids_of(tokens)
        for i, token in enumerate(tokens, start=len(PROMPT)):
            with torch.no_grad():
                expected = MODEL(torch.tensor([ids[:i][-CONTEXT:]]))[0, -1].log_softmax(-1)[ids[i]]
            # float32 has a relative step of 1.2e-7, and logits go up to 10.
            assert token.logprob == pytest.approx(expected.item(), abs=5e-6)

    def test_one_pass_for_the_prompt_one_token_a_step(self):
        """The model is given the prompt, then single tokens; past the context, the whole window."""
        seen = []
        hook = MODEL.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
        with hook:
            list(generate(MODEL, PROMPT, max_new_tokens=17))

        assert seen == [(1, 9)] + [(1, 1)] * 14 + [(1, 23)] * 2

    def test_logits_only_where_needed(self):
        """No pass computes logits of more than one position a row."""
        seen = []
        model = small_model()
        plain = model.logits
        model.logits = lambda hidden: seen.append(hidden.numel() // 30) or plain(hidden)
        list(generate(model, PROMPT, max_new_tokens=16))

        assert seen == [1] * 16

    def test_prompt_is_read_once_for_its_samples(self):
        """Several samples share the pass over their prompt."""
        seen = []
        with MODEL.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape))):
            list(generate_batch(MODEL, [PROMPT, [1]], n_samples=3, max_new_tokens=3))

        assert seen == [(2, 9), (6, 1), (6, 1)]


class TestBatch:
    @pytest.mark.parametrize(
        "options",
        [{"temperature": 0}, {"seed": 5}, {"seed": 5, "top_k": 20, "repetition_penalty": 1.3, "min_p": 0.01}],
        ids=["greedy", "sampled", "filtered"],
    )
    @pytest.mark.parametrize("n", [10, 31], ids=["inside the context", "some past it"])
    def test_batched_is_alone(self, n, options):
        """Each text of a batch of unequal prompts is the one that its prompt gets alone, with its logprobs."""
        together = by_text(generate_batch(MODEL, UNEQUAL, max_new_tokens=n, **options), 4)
        for prompt, tokens in zip(UNEQUAL, together, strict=True):
            alone = list(generate(MODEL, prompt, max_new_tokens=n, **options))
            assert ids_of(alone) == ids_of(tokens)
            assert [t.logprob for t in alone] == pytest.approx([t.logprob for t in tokens], abs=1e-5)
            assert text_of(alone) == text_of(tokens)

    @given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 20), st.integers(1, 3))
    @settings(max_examples=25, deadline=None)
    def test_any_batch(self, lengths, n, n_samples):
        """Whatever the lengths, also beyond the context, and the number of samples."""
        prompts = [random_ids(length, seed=length).tolist() for length in lengths]
        got = by_text(
            generate_batch(MODEL, prompts, n_samples=n_samples, max_new_tokens=n, seed=8), len(prompts) * n_samples
        )
        for i, tokens in enumerate(got):
            prompt, seed = prompts[i // n_samples], 8 + i % n_samples
            assert ids_of(generate(MODEL, prompt, max_new_tokens=n, seed=seed)) == ids_of(tokens)

    def test_float32(self):
        """The same holds in float32, whose rounding may differ with the batch but is far from a choice here."""
        model = small_model(dtype=torch.float32)
        together = by_text(generate_batch(model, UNEQUAL, max_new_tokens=25, seed=2), 4)

        assert [ids_of(generate(model, p, max_new_tokens=25, seed=2)) for p in UNEQUAL] == [
            ids_of(tokens) for tokens in together
        ]

    def test_samples_differ_and_repeat(self):
        """Samples of a prompt differ; a seed brings them back; sample s is drawn with seed + s."""
        first = complete_batch(MODEL, [PROMPT], n_samples=3, max_new_tokens=12, seed=40)

        assert len(set(first)) == 3
        assert first == complete_batch(MODEL, [PROMPT], n_samples=3, max_new_tokens=12, seed=40)
        assert first[2] == complete(MODEL, PROMPT, max_new_tokens=12, seed=42)

    def test_rows_leave_when_finished(self):
        """A finished text is not computed any further, and the others go on undisturbed."""
        options = {"max_new_tokens": 12, "seed": 3}
        alone = [list(generate(MODEL, prompt, **options)) for prompt in UNEQUAL]
        stop_id = alone[2][4].id
        expected = [list(generate(MODEL, prompt, stop_ids=[stop_id], **options)) for prompt in UNEQUAL]
        rows = []
        with MODEL.register_forward_pre_hook(lambda _, args: rows.append(len(args[0]))):
            got = by_text(generate_batch(MODEL, UNEQUAL, stop_ids=[stop_id], **options), 4)

        assert [ids_of(tokens) for tokens in expected] == [ids_of(tokens) for tokens in got]
        assert sum(rows) == sum(len(tokens) for tokens in expected) < 4 * 12

    def test_streams_step_by_step(self):
        """Tokens come as they are made: one of each text, then the next of each."""
        order = [i for i, _ in generate_batch(MODEL, UNEQUAL[:2], n_samples=2, max_new_tokens=3)]

        assert order == [0, 1, 2, 3] * 3

    def test_empty_batch(self):
        """No prompts, no tokens."""
        assert list(generate_batch(MODEL, [])) == []
        assert complete_batch(MODEL, [], n_samples=4) == []


class TestMany:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("batch", [1, 2, 5, 40])
    def test_many_are_alone(self, batch, dtype):
        """Each of 30 texts is what its prompt gives alone with its options, however many share a pass."""
        model = small_model(dtype=dtype)
        got = by_text(generate_many(model, varied(30), batch=batch), 30)

        for (prompt, request), tokens in zip(varied(30), got, strict=True):
            (alone,) = by_text(generate_many(model, [(prompt, request)], batch=1), 1)
            options = {name: getattr(request, name) for name in Options.__annotations__}
            assert ids_of(generate(model, prompt, **options)) == ids_of(alone) == ids_of(tokens)
            assert [t.logprob for t in alone] == pytest.approx([t.logprob for t in tokens], abs=1e-5)
            assert alone[-1].finish_reason == tokens[-1].finish_reason

    def test_a_prompt_is_taken_when_there_is_a_place(self):
        """No more than `batch` prompts are under way, and in the end all have been."""
        taken, ended = [], []
        items = ((taken.append(i) or [i + 1], GenerationOptions(max_new_tokens=2 + i % 5, seed=i)) for i in range(12))
        for i, token in generate_many(MODEL, items, batch=3):
            assert len(taken) - len(ended) <= 3
            ended += [i] if token.finish_reason else []

        assert list(range(12)) == taken == sorted(ended)

    def test_every_pass_is_full(self):
        """While prompts are left, each pass of single tokens has every place taken, and no pass has more."""
        seen = []
        items = (([i + 1], GenerationOptions(max_new_tokens=3 + i % 4, seed=i)) for i in range(20))
        with MODEL.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape))):
            n_tokens = len(list(generate_many(MODEL, items, batch=4)))

        assert sum(rows for rows, _ in seen) == n_tokens == sum(3 + i % 4 for i in range(20))
        assert len(seen) < n_tokens / 4 + 20 + 6  # a prompt's own pass, and the last rows alone

    def test_memory_does_not_grow_with_the_prompts(self):
        """The cache has a row for each place and room for the longest text that came, rounded up to 64 tokens."""
        model, caches = small_model(SMALL.replace(context_length=200)), []
        items = (([5], GenerationOptions(max_new_tokens=70 if i == 9 else 2)) for i in range(50))
        with model.register_forward_pre_hook(lambda _, args: caches.append(args[1].keys.shape)):
            list(generate_many(model, items, batch=3))

        assert {64, 128} < {shape[3] for shape in caches}  # and short copies of the rows that a pass leaves out
        assert max(shape[3] for shape in caches) == 128
        assert max(shape[1] for shape in caches) == 3

    def test_a_bad_prompt_is_an_error_when_it_comes(self):
        """What came before it is yielded; a batch below 1 is refused by the call."""
        items = [([1], GenerationOptions(max_new_tokens=2, seed=1)), ([500], GenerationOptions())]
        tokens = generate_many(MODEL, items, batch=1)

        assert [next(tokens)[0], next(tokens)[0]] == [0, 0]
        with pytest.raises(OptionError, match="token id 500"):
            next(tokens)
        with pytest.raises(OptionError, match="batch must be an integer of at least 1, not 0"):
            generate_many(MODEL, [], batch=0)


class TestSeed:
    def test_same_seed_same_text(self):
        """A seed decides the text, another gives another, none gives a fresh one each time."""
        texts = [complete(MODEL, PROMPT, seed=seed) for seed in (1, 1, 2, None, None)]

        assert texts[0] == texts[1]
        assert len(set(texts)) == 4

    def test_global_generator_is_untouched(self):
        """Neither seeded nor unseeded generation moves torch's generator, nor depends on it."""
        state = torch.random.get_rng_state()
        first = complete(MODEL, PROMPT, seed=1)
        complete(MODEL, PROMPT)
        assert torch.equal(state, torch.random.get_rng_state())

        with torch.random.fork_rng():
            torch.manual_seed(99)
            assert first == complete(MODEL, PROMPT, seed=1)


class TestContext:
    def test_slide_is_the_books_loop(self):
        """From a prompt longer than the context, too, each token is predicted from the last 23."""
        prompt = random_ids(40, seed=6).tolist()

        assert book_generate(MODEL, prompt, 15) == ids_of(generate(MODEL, prompt, max_new_tokens=15, temperature=0))
        assert book_generate(MODEL, prompt[:23], 9) == ids_of(
            generate(MODEL, prompt[:23], max_new_tokens=9, temperature=0)
        )

    @pytest.mark.parametrize(("length", "expected"), [(9, 15), (22, 2), (23, 1)])
    def test_stop(self, length, expected):
        """With "stop" the last token is the one predicted from a full context, and has the reason "context"."""
        prompt = random_ids(length).tolist()
        tokens = list(generate(MODEL, prompt, past_context="stop", seed=1))

        assert expected == len(tokens)
        assert tokens[-1].finish_reason == "context"
        assert ids_of(generate(MODEL, prompt, seed=1, max_new_tokens=expected)) == ids_of(tokens)

    def test_length_comes_before_context(self):
        """If both limits are reached at once, the reason is the one asked for."""
        tokens = list(generate(MODEL, PROMPT, past_context="stop", max_new_tokens=15))

        assert tokens[-1].finish_reason == "length"

    def test_long_prompt_is_refused_by_stop(self):
        """With "stop", a prompt longer than the context is an error that names both lengths."""
        with pytest.raises(OptionError, match="the prompt has 24 tokens, but the context only 23; shorten it"):
            generate(MODEL, random_ids(24).tolist(), past_context="stop")

    def test_repetition_counts_what_slid_out(self):
        """A repetition penalty remembers tokens that have left the window."""
        model = Scripted([5] * 40, context_length=4)
        ids = ids_of(generate(model, [5, 6, 7, 8, 9, 10], temperature=0, repetition_penalty=1e6, max_new_tokens=1))

        assert ids == [0]


class TestModel:
    @pytest.mark.parametrize("n", [0, 1, 3, 99])
    def test_mode_is_restored(self, n):
        """Dropout is off while a token is made; between tokens, abandoned or done, each module has its own mode."""
        model = small_model().train()
        model.blocks[0].eval()
        modes = [module.training for module in model.modules()]
        tokens = generate(model, PROMPT, seed=1, max_new_tokens=20)
        got = []
        for _ in range(n):
            got += ids_of([token for token in [next(tokens, None)] if token])
            assert modes == [module.training for module in model.modules()]
        del tokens

        assert modes == [module.training for module in model.modules()]
        assert ids_of(generate(MODEL, PROMPT, seed=1, max_new_tokens=20))[:n] == got

    def test_mode_is_restored_after_an_error(self):
        """A pass that fails restores the modes as well."""
        model = small_model().train()
        model.blocks[1].forward = None
        with pytest.raises(TypeError):
            complete(model, PROMPT)

        assert all(module.training for module in model.modules())

    def test_interleaved(self):
        """Two generations of one model in turn are what each is alone."""
        model = small_model().train()
        first, second = (generate(model, PROMPT, seed=seed, max_new_tokens=12) for seed in (1, 2))
        got = [(a.id, b.id) for a, b in zip(first, second, strict=True)]

        assert (
            list(zip(*(ids_of(generate(MODEL, PROMPT, seed=s, max_new_tokens=12)) for s in (1, 2)), strict=True)) == got
        )

    def test_caller_keeps_its_gradients(self):
        """Between tokens the caller is in neither inference nor no-grad mode."""
        for _ in generate(MODEL, PROMPT, max_new_tokens=2):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            MODEL(random_ids(1, 3)).sum().backward()
        MODEL.zero_grad()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_dtypes(self, dtype):
        """Generation runs in the dtype of the weights."""
        tokens = list(generate(small_model(dtype=dtype), PROMPT, max_new_tokens=30, seed=1))

        assert len(tokens) == 30

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_logits_that_are_not_finite(self, bad):
        """Broken weights are an error that says where to look, not a draw from nonsense."""
        model = small_model()
        with torch.no_grad():
            model.final_norm.bias[3] = bad
        with pytest.raises(ZooError, match="the model's logits are not finite; check the weights with `zoo inspect"):
            complete(model, PROMPT)
