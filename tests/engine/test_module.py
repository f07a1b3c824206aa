"""The engine over a module's own memory: no copy, nothing stale, and torch wherever the engine computes less."""

import copy
import gc
import weakref

import pytest
import torch
from small import SMALL, random_ids, small_model

import zoo
from zoo.engine import Engine, is_built
from zoo.engine.module import engine_over, reason_against
from zoo.errors import OptionError
from zoo.train.step.lora import add_lora

pytestmark = pytest.mark.skipif(not is_built(), reason="the C library was not built here")

PROMPT = random_ids(9).tolist()
OPTIONS = {"temperature": 0, "max_new_tokens": 9}


def logprobs(model, backend):
    return [token.logprob for token in zoo.generate(model, PROMPT, backend=backend, **OPTIONS)]


def agree(model):
    """Whether the engine's text and log-probabilities are those of torch, which always has the weights of now."""
    return logprobs(model, "engine") == pytest.approx(logprobs(model, "torch"), abs=1e-4)


def scale(parameter):
    with torch.no_grad():
        parameter.mul_(1.7)


def scale_data(parameter):
    parameter.data.mul_(1.7)


CHANGES = {
    "in place": lambda model: [scale(each) for each in model.parameters()],
    "through .data": lambda model: [scale_data(each) for each in model.parameters()],
    "a norm in place": lambda model: scale_data(model.final_norm.weight),
    "a bias in place": lambda model: scale(model.blocks[1].mlp.up.bias),
    "replaced": lambda model: setattr(model.tok_emb, "weight", torch.nn.Parameter(model.tok_emb.weight.detach() * 0.3)),
    "a norm replaced": lambda model: setattr(
        model.blocks[0].norm1, "weight", torch.nn.Parameter(model.final_norm.weight.detach() * 3)
    ),
    "data replaced": lambda model: setattr(model.pos_emb.weight, "data", model.pos_emb.weight.detach() * 0.2),
    "loaded": lambda model: model.load_state_dict(small_model(seed=9, dtype=torch.float32).state_dict()),
    "optimized": lambda model: step(model),  # noqa: PLW0108 - defined below
}


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_changed_parameter_is_seen(change, dtype):
    """Whichever way weights change between two calls, the next text is that of the new ones."""
    model = small_model(dtype=dtype)
    before = logprobs(model, "engine")
    change(model)
    after = logprobs(model, "engine")

    assert before != after
    assert after == logprobs(copy.deepcopy(model), "engine")
    if dtype == torch.float32:
        assert agree(model)


@pytest.mark.parametrize("change", [lambda m: m.bfloat16(), lambda m: m.half()], ids=["bfloat16", "float16"])
def test_a_cast_is_seen(change):
    """After a cast the engine computes with the new dtype, which costs precision."""
    model = small_model(dtype=torch.float32)
    exact = logprobs(model, "engine")
    rounded = logprobs(change(model), "engine")

    assert exact != rounded
    assert exact[0] == pytest.approx(rounded[0], abs=0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_weight_is_copied(dtype):
    """The matrices that the C side reads are the module's; of another dtype only vectors are copied."""
    model = small_model(dtype=dtype)
    engine = engine_over(model)
    model_struct = engine._handle.weights.model

    assert model_struct.tokens.data == model.tok_emb.weight.data_ptr()
    assert model_struct.layers[1].up.data == model.blocks[1].mlp.up.weight.data_ptr()
    assert (model_struct.final_norm.weight == model.final_norm.weight.data_ptr()) == (dtype == torch.float32)


def test_one_engine_for_a_module_that_ends_with_it():
    """Calls share the engine; a copy of the module gets its own; when the module is gone, so is the engine."""
    model = small_model(dtype=torch.float32)
    engine = weakref.ref(engine_over(model))

    assert engine() is engine_over(model)
    assert engine() is not engine_over(copy.deepcopy(model))
    del model
    gc.collect()
    assert engine() is None


class Quieter(zoo.GPTModel):
    """Computes something else than its base."""

    def logits(self, hidden):
        return super().logits(hidden) / 2


def of_class(kind):
    model = small_model(dtype=torch.float32)
    model.__class__ = kind
    return model


def changed(change):
    model = small_model(dtype=torch.float32)
    change(model)
    return model


def halved(model):
    plain = model.blocks[0].mlp.forward
    model.blocks[0].mlp.forward = lambda x: plain(x) / 2


def transposed(model):
    weight = model.blocks[0].attn.out.weight
    model.blocks[0].attn.out.weight = torch.nn.Parameter(weight.detach().T.contiguous().T)


OTHERS = {
    "a subclass": lambda: of_class(Quieter),
    "float64": small_model,
    "a hook": lambda: changed(lambda m: m.blocks[0].register_forward_hook(lambda *args: args[2] / 2)),
    "a hook before": lambda: changed(lambda m: m.register_forward_pre_hook(lambda *_: None)),
    "an overridden method": lambda: changed(halved),
    "LoRA": lambda: changed(add_lora),
    "not contiguous": lambda: changed(transposed),
    "two dtypes": lambda: changed(lambda m: m.pos_emb.double()),
    "another device": lambda: small_model(dtype=torch.float32).to("meta"),
    "a parametrization": lambda: changed(lambda m: torch.nn.utils.parametrizations.weight_norm(m.blocks[0].mlp.up)),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_the_engine_would_compute_wrongly_runs_on_torch(make):
    """A reason is given to who asks for the engine; by default the text is torch's."""
    model = make()

    assert reason_against(model)
    with pytest.raises(OptionError, match="the engine cannot run this model: .*; use backend='torch'"):
        zoo.generate(model, PROMPT, backend="engine")
    if model.tok_emb.weight.device.type != "meta" and model.pos_emb.weight.dtype == model.tok_emb.weight.dtype:
        assert logprobs(model, "auto") == logprobs(model, "torch")


def test_an_engine_is_a_model():
    """The public functions take an Engine; backend="torch" has nothing to run there."""
    model = small_model(dtype=torch.float32)
    engine = Engine(SMALL, {name: each.detach().numpy() for name, each in model.named_parameters()}, threads=1)

    assert logprobs(engine, "auto") == logprobs(model, "engine")
    with pytest.raises(OptionError, match="an Engine cannot run on torch"):
        zoo.complete(engine, PROMPT, backend="torch")
    with pytest.raises(OptionError, match="backend must be auto, engine or torch, not 'native'"):
        zoo.complete(model, PROMPT, backend="native")
