"""The small model that comes with the package."""

import math
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import zoo
from zoo import verify
from zoo.cli.main import main
from zoo.converters.zoo_file import ZooFile
from zoo.core.tensors import LazyTensor
from zoo.errors import MissingWeights, ZooError
from zoo.formats.base import Checkpoint
from zoo.formats.registry import usable_formats
from zoo.generation.sampler import keep_top_p
from zoo.hub.resolve import find_checkpoint

TEXT = (
    "Once upon a time there lived in a village a poor widow, who had an only son named Jack. One day she said to him: "
    '"Take the cow to the market, my boy, and sell her for as much as you can get." So Jack went out with the cow, and '
    "on the way he met an old man, who asked him where he was going."
)
"""In the manner of the texts that it was trained on, but not one of them."""


@pytest.fixture(scope="module")
def model():
    """As it is loaded by name."""
    return zoo.load("stories")


def test_it_is_small_and_loads_fast():
    """The file has less than 16 MB, and loads in well under a second, once torch is there."""
    assert find_checkpoint("stories").stat().st_size < 16_000_000
    zoo.load("stories")
    started = time.perf_counter()
    zoo.load("stories")
    assert time.perf_counter() - started < 1


def test_it_predicts_such_text(model):
    """Its loss on a tale is far below that of a unigram model, 6.46."""
    ids = torch.tensor([model.tokenizer.encode(TEXT)])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model.float()(ids[:, :-1])[0], ids[0, 1:])
    assert loss < 4.2


def test_ids_that_its_texts_lack_are_hardly_sampled(model):
    """Their rows are zero, so their logits are 0; the command's temperature and top_p leave almost none of them."""
    unused = (model.tok_emb.weight == 0).all(1)
    assert 28_446 == unused.sum()
    ids = torch.tensor([model.tokenizer.encode(TEXT)])
    with torch.no_grad():
        logits = model.float()(ids)[0]
    assert logits[:, unused].abs().max() == 0
    kept = keep_top_p(logits / 0.8, 0.95).softmax(-1)[:, unused].sum(-1)
    assert kept.mean() < 0.002


def test_the_command_writes_a_story_without_a_model_of_ones_own():
    """One line on stderr says which model it is and how to get GPT-2; the same seed gives the same text."""
    texts = []
    for _ in range(2):
        done = CliRunner().invoke(main, ["generate", "-n", "20", "--seed", "3", "Every effort moves you"])
        assert done.exit_code == 0
        assert 1 == len(done.stderr.splitlines())
        assert "using the small model 'stories'" in done.stderr
        assert "--model gpt2-small" in done.stderr
        texts.append(done.stdout)
    assert texts[0] == texts[1]
    assert texts[0].startswith("Every effort moves you")
    assert len(texts[0].split()) > 10


def test_another_model_is_never_replaced_by_it():
    """--model gpt2-small without its weights is an error."""
    done = CliRunner().invoke(main, ["generate", "--model", "gpt2-small", "x"])
    assert (1, "") == (done.exit_code, done.stdout)
    assert "the weights of gpt2-small are not on this machine" in done.stderr
    with pytest.raises(MissingWeights):
        zoo.load("gpt2-small")


def test_it_goes_through_every_format_and_comes_back_the_same(tmp_path):
    """Its content hash survives each format that holds it; every format that zoo reads and writes does."""
    expected = zoo.content_hash("stories")
    for each in usable_formats():
        if not each.reads or not each.writes or each.name.startswith("zoo-"):
            continue
        there = tmp_path / (f"there-{each.name}" + "".join(each.suffixes[:1]))
        zoo.convert("stories", there, to=each.name, dtype=None if "bfloat16" in each.dtypes else "float32")
        if "bfloat16" in each.dtypes:
            zoo.convert(there, tmp_path / "back.safetensors", format=each.name, force=True)
            assert expected == zoo.content_hash(tmp_path / "back.safetensors"), each.name
        else:  # bfloat16 values are float32 values too
            zoo.convert(there, tmp_path / "back.safetensors", format=each.name, dtype="bfloat16", force=True)
            assert expected == zoo.content_hash(tmp_path / "back.safetensors"), each.name


def changed(path, change):
    """A copy of the model with some weights changed."""
    model = zoo.load("stories", dtype="float32")
    with torch.no_grad():
        for block in model.blocks:
            change(block.attn)
    zoo.save(model, path)
    return path


def transpose(attn):
    attn.out.weight.copy_(attn.out.weight.T.clone())


def exchange(attn):
    for parameter in (attn.qkv.weight, attn.qkv.bias):
        q, k, v = parameter.clone().chunk(3)
        parameter.copy_(torch.cat([k, q, v]))


@pytest.mark.parametrize(
    ("change", "words"), [(transpose, "attn.out transposed in all blocks"), (exchange, "k, q, v in all blocks")]
)
def test_verify_finds_square_matrices_that_are_not_as_they_were_trained(tmp_path, change, words):
    """No shape shows it; the loss on plain English does. The model itself is not accused."""
    statuses = {check.name: check for check in verify("stories")}
    assert "ok" == statuses["arrangement"].status
    statuses = {check.name: check for check in verify(changed(tmp_path / "x.safetensors", change))}
    assert "failed" == statuses["arrangement"].status
    assert words in statuses["arrangement"].detail


def test_verify_compares_with_another_checkpoint(tmp_path):
    """Equal logits are ok, others fail; the command's exit status says which."""
    zoo.convert("stories", tmp_path / "same.pth", to="book", dtype="float32")
    other = changed(tmp_path / "other.safetensors", lambda attn: attn.out.weight.mul_(0.5))
    for path, code in ((tmp_path / "same.pth", 0), (other, 1)):
        done = CliRunner().invoke(main, ["verify", "stories", "--against", str(path)])
        assert code == done.exit_code, done.output
        assert "of the largest" in done.stdout


def test_verify_finds_values_that_are_no_numbers(tmp_path):
    """NaN and constant matrices fail, by name, before the model is run."""
    path = changed(tmp_path / "nan.safetensors", lambda attn: attn.out.weight[3, 5].fill_(math.nan))
    done = CliRunner().invoke(main, ["verify", str(path)])
    assert done.exit_code == 1
    assert "blocks.0.attn.out.weight (1 NaN, 0 infinite)" in done.stdout
    path = changed(tmp_path / "flat.safetensors", lambda attn: attn.out.weight.fill_(0.5))
    assert "blocks.0.attn.out.weight (all 0.5)" in CliRunner().invoke(main, ["verify", str(path)]).stdout
    missing = CliRunner().invoke(main, ["verify", str(tmp_path / "none.safetensors"), "--json"])
    assert missing.exit_code == 1
    assert "there is no such file" in missing.stdout + missing.stderr


CONFIG = zoo.GPTConfig(vocab_size=17, context_length=5, width=6, n_heads=2, n_layers=1)


def compact(path, ids=(1, 4, 5, 9, 10, 16)):
    """A zoo file that has some rows of the embedding only, and the whole tensors."""
    random = np.random.default_rng(5)
    arrays = {name: random.normal(size=s).astype(np.float32) for name, s in CONFIG.parameter_shapes().items()}
    arrays["tok_emb.weight"][[i for i in range(17) if i not in ids]] = 0
    tensors = {name: LazyTensor.of(array) for name, array in arrays.items()}
    ZooFile().write_compact(path, Checkpoint(path, CONFIG, tensors))
    return arrays


def test_rows_that_are_zero_need_no_place(tmp_path):
    """They are put back when the file is read, whatever format it goes to."""
    arrays = compact(tmp_path / "x.safetensors")
    for name, value in zoo.load(tmp_path / "x.safetensors").state_dict().items():
        assert (arrays[name] == value.numpy()).all(), name
    zoo.convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert zoo.content_hash(tmp_path / "x.safetensors") == zoo.content_hash(tmp_path / "y.safetensors")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (np.int32([1, 4, 5]), np.int32([1, 4, 17]), "has an id that is outside the vocabulary of 17"),
        (np.int32([1, 4, 5]), np.int32([-1, 4, 5]), "has an id that is outside the vocabulary of 17"),
        (b'"vocab_size\\": 17', b'"vocab_size\\": 99', "too few to be true|impossible"),
        (b'[6],"data', b'[5],"data', "not where they must be"),
    ],
)
def test_damaged_rows_are_refused(tmp_path, old, new, message):
    """Ids outside the vocabulary, a vocabulary that few bytes make huge, and rows that do not fit their ids."""
    path = tmp_path / "x.safetensors"
    compact(path)
    old, new = (each if isinstance(each, bytes) else each.tobytes() for each in (old, new))
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(ZooError, match=message):
        zoo.load(path)
