"""The page and the plot of `zoo inspect`."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small import SMALL, small_model

import zoo
from zoo.cli.main import main
from zoo.core.statistics import histogram, statistics
from zoo.core.tensors import LazyTensor
from zoo.examine.summary import make_report
from zoo.plot.parameters import plot_weights

VOID = {"meta", "rect", "polyline", "circle", "line"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.links = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href")]
        assert tag != "script"

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def file(tmp_path):
    """A small model of three layers."""
    zoo.save(small_model(SMALL.replace(n_layers=3), dtype=torch.float32), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_the_page_is_whole_and_stands_alone(file, tmp_path):
    """Well-formed HTML with every tensor, config field and rule in it, and nothing from elsewhere."""
    out = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["inspect", str(file), "--html", str(out)])
    assert (0, f"{out}\n") == (done.exit_code, done.stdout)
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.words)
    config = zoo.load(file).config
    assert all(name in words for name in config.parameter_shapes())
    assert all(field in words for field in config.to_dict())
    assert "blocks.{i}.attn.qkv.weight" in words
    assert [] == page.links
    assert "http" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    assert 1 + 3 * 4 == text.count("histogram of")


def test_its_numbers_are_numpys(file):
    """Mean, deviation and norm of each tensor, and the histogram, agree with numpy on the whole array."""
    report = make_report(file)
    for name, value in zoo.load(file).state_dict().items():
        array, numbers = value.numpy().astype(np.float64), report.parameters[name].numbers
        expected = (array.mean(), array.std(), array.min(), array.max(), np.linalg.norm(array))
        assert np.allclose(expected, (numbers.mean, numbers.std, numbers.min, numbers.max, numbers.norm), rtol=1e-9)
    array = np.random.default_rng(3).normal(2.0, 3.0, (70, 90)).astype(np.float32)
    tensor = LazyTensor.of(array)
    counts = histogram(tensor, statistics(tensor), bins=9)
    low, high = array.mean(dtype=np.float64) - 4 * array.std(dtype=np.float64), array.mean() + 4 * array.std()
    expected = np.histogram(np.clip(array, low, high), bins=9, range=(low, high))[0]
    assert np.abs(expected - counts).sum() <= 2  # a value on an edge may fall to either side
    assert array.size == sum(counts)


def test_nothing_from_the_file_becomes_markup(file, tmp_path):
    """Names and provenance are escaped: a checkpoint may come from anybody."""
    evil = tmp_path / "<script>alert(1)<script>.safetensors"
    file.rename(evil)
    out = tmp_path / "report.html"
    assert 0 == CliRunner().invoke(main, ["inspect", str(evil), "--html", str(out)]).exit_code
    Page(out.read_text(encoding="utf-8"))
    assert "<script" not in out.read_text(encoding="utf-8")


def test_values_that_are_no_numbers_are_counted_and_drawn_around(tmp_path):
    """NaN, infinity and constant tensors appear in the table; neither page nor plot fails."""
    model = small_model(dtype=torch.float32)
    with torch.no_grad():
        model.blocks[0].attn.out.weight.fill_(float("nan"))
        model.blocks[1].attn.out.weight[2, 3] = float("inf")
        model.blocks[1].mlp.up.weight.zero_()
    zoo.save(model, tmp_path / "model.safetensors")
    out = [tmp_path / "report.html", tmp_path / "plot.png"]
    arguments = ["inspect", str(tmp_path / "model.safetensors"), "--html", str(out[0]), "--plot", str(out[1])]
    pytest.importorskip("matplotlib")
    assert 0 == CliRunner().invoke(main, arguments).exit_code
    assert "<td class=n>900</td>" in out[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_plot_has_a_curve_for_each_kind_of_matrix(file, tmp_path, suffix):
    """The file is drawn; the same model gives the same bytes."""
    pytest.importorskip("matplotlib")
    report = make_report(file)
    for name in ("a", "b"):
        plot_weights(report, tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert len(first) > 10_000
    assert suffix == ".svg" or first == second
    assert suffix == ".png" or all(kind in first.decode() for kind in ("attn.qkv", "mlp.down"))


def test_an_existing_page_is_kept_unless_forced(file, tmp_path):
    """As every other output."""
    out = tmp_path / "report.html"
    out.write_text("mine")
    done = CliRunner().invoke(main, ["inspect", str(file), "--html", str(out)])
    assert done.exit_code == 1
    assert "exists already" in done.stderr
    assert "mine" == out.read_text()
    assert 0 == CliRunner().invoke(main, ["inspect", str(file), "--html", str(out), "--force"]).exit_code
