"""Differences against numpy's own, and the commands diff, hash and verify."""

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL, small_model

import zoo
from zoo.cli.main import main
from zoo.examine.diff import _measure, _steps


@pytest.fixture
def run():
    """Run the command line in this process; gives exit code, stdout and stderr."""

    def call(*arguments):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    return call


@pytest.fixture
def files(tmp_path):
    """A model in three formats, in bfloat16, and with one value changed."""
    model = small_model(SMALL, dtype=torch.float32)
    zoo.save(model, tmp_path / "a.safetensors")
    zoo.convert(tmp_path / "a.safetensors", tmp_path / "a.pth", to="book")
    zoo.convert(tmp_path / "a.safetensors", tmp_path / "half.safetensors", dtype="bfloat16")
    with torch.no_grad():
        model.blocks[1].attn.out.weight[3, 5] *= -1.5
    zoo.save(model, tmp_path / "b.safetensors")
    return tmp_path


@given(st.floats(width=32, allow_nan=False), st.integers(0, 1000))
def test_steps_are_those_of_nextafter(x, n):
    """n steps up from a number are n units in the last place away, through zero too."""
    a = np.array([x], np.float32)
    b = a.copy()
    for _ in range(n):
        b = np.nextafter(b, np.float32(np.inf))
    expected = min(n, int(_steps(a, np.array([np.inf], np.float32))[0]))
    assert expected == int(_steps(a, b)[0]) == int(_steps(b, a)[0])


@given(st.integers(0, 999), st.sampled_from([np.float32, np.float16, np.float64]))
def test_measures_are_numpys(seed, dtype):
    """Largest differences, cosine and count, computed at once by numpy."""
    random = np.random.default_rng(seed)
    a = random.normal(size=(7, 11)).astype(dtype)
    b = (a + random.normal(size=a.shape).astype(dtype) * dtype(0.01) * (random.random(a.shape) < 0.5)).astype(dtype)
    b[0, 0] = a[0, 0] + dtype(1)
    found = _measure("x", a, b)
    u, v = a.astype(np.float64), b.astype(np.float64)
    cosine = (u * v).sum() / np.linalg.norm(u) / np.linalg.norm(v)
    assert found.max_abs == np.abs(u - v).max()
    assert math.isclose(found.max_rel, (np.abs(u - v) / np.maximum(np.abs(u), np.abs(v))).max())
    assert math.isclose(found.cosine, cosine, rel_tol=1e-12)
    assert found.n_different == (a != b).sum()


def test_nan_and_infinity_are_differences_unless_both_have_them():
    """Equal infinities and NaN in the same place differ by nothing; NaN against a number is NaN."""
    a = np.array([np.inf, np.nan, 1.0], np.float32)
    assert _measure("x", a, np.array([np.inf, np.nan, 2.0], np.float32)).max_abs == 1.0
    assert math.isnan(_measure("x", a, np.array([np.inf, 3.0, 1.0], np.float32)).max_abs)
    assert math.isinf(_measure("x", a, np.array([1.0, np.nan, 1.0], np.float32)).max_abs)


def test_the_same_model_in_two_formats_is_the_same(run, files):
    """Exit status 0, and one line."""
    code, out, _ = run("diff", files / "a.safetensors", files / "a.pth")
    assert (0, "same: all 28 tensors agree bit for bit\n") == (code, out.splitlines(keepends=True)[-1])


def test_one_changed_value_is_found(run, files):
    """Exit status 1; the tensor, its distance and the number of values are told, in JSON too."""
    code, out, _ = run("diff", files / "a.safetensors", files / "b.safetensors")
    assert code == 1
    assert "blocks.1.attn.out.weight" in out
    assert out.endswith("different: 1 of 28 tensors\n")
    found = json.loads(run("diff", files / "a.safetensors", files / "b.safetensors", "--json")[1])
    (changed,) = [each for each in found["tensors"] if not each["same"]]
    assert ("blocks.1.attn.out.weight", 1) == (changed["name"], changed["n_different"])
    assert not found["same"]


def test_casts_differ_unless_a_tolerance_is_given(run, files):
    """bfloat16 keeps eight bits; --atol counts smaller differences as none."""
    code, out, _ = run("diff", files / "a.safetensors", files / "half.safetensors")
    assert code == 1
    assert "... and 8 more; --all shows them" in out
    found = zoo.diff(files / "a.safetensors", files / "half.safetensors")
    assert all(each.max_rel <= 2**-8 and each.max_ulp is None for each in found.tensors if not each.same)
    code, out, _ = run("diff", files / "a.safetensors", files / "half.safetensors", "--atol", 0.1)
    assert (0, "same: all 28 tensors agree to 0.1\n") == (code, out)


def test_other_architectures_differ_by_config_and_shape(run, files):
    """Missing tensors, other shapes and fields of the config are each told."""
    zoo.save(small_model(SMALL.replace(n_layers=1, inner_width=70, tied=False)), files / "c.safetensors")
    code, out, _ = run("diff", files / "a.safetensors", files / "c.safetensors", "--all")
    assert code == 1
    for words in ("config: n_layers is 2 and 1", "only in the first", "only in the second", "shapes [120, 30]"):
        assert words in out


def test_what_cannot_be_read_is_an_error_with_status_one(run, files):
    """diff and verify tell errors from differences."""
    code, _, err = run("diff", files / "a.safetensors", files / "none")
    assert code == 1
    assert "there is no such file" in err
    assert 1 == run("verify", files / "a.safetensors", "--against", files / "none")[0]


def test_hash_prints_one_line_for_each(run, files):
    """As b3sum does: hash and path."""
    code, out, _ = run("hash", files / "a.safetensors", files / "a.pth")
    first, second = (line.split("  ") for line in out.splitlines())
    assert (0, first[0], str(files / "a.pth")) == (code, second[0], second[1])
    assert 1 == len(set(json.loads(run("hash", "--json", files / "a.safetensors", files / "a.pth")[1]).values()))
