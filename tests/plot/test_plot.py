"""Plots show the values of the metrics and the model."""

import json

import pytest
import torch
from click.testing import CliRunner
from small import Scripted, small_model

import zoo
from zoo.cli.main import main
from zoo.errors import FormatError, MissingPackage, OptionError
from zoo.plot.losses import Run, plot_losses
from zoo.plot.temperatures import next_tokens, plot_temperatures


@pytest.fixture
def runs(tmp_path):
    """Three runs, the last with epochs of another size; the first was killed while it wrote a line."""
    for name, size in (("a", 512), ("b", 512), ("c", 700)):
        rows = [
            {
                "step": s,
                "epoch": s / 9,
                "tokens": s * size / 9,
                "train_loss": 9 - s / 40,
                "val_loss": None if s % 5 else 8.5,
            }
            for s in range(1, 260)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 260, "ep')
    return tmp_path


def drawn(runs, out):
    """The axes that plot_losses draws."""
    module = pytest.importorskip("matplotlib.figure")
    figures = []

    class Kept(module.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Figure", Kept)
        plot_losses(runs, out)
    return figures[0].axes[0]


def test_one_run_has_epochs_below_and_tokens_above(runs):
    """Both losses are curves over epochs, and the axis above turns an epoch into its tokens."""
    axes = drawn([runs / "a"], runs / "x.png")
    raw, _, val = (line.get_xydata().tolist() for line in axes.lines)

    assert [[s / 9, 9 - s / 40] for s in range(1, 260)] == raw
    assert [[s / 9, 8.5] for s in range(5, 260, 5)] == val
    assert "epochs" == axes.get_xlabel()
    (top,) = axes.child_axes
    assert "tokens seen" == top.get_xlabel()
    assert pytest.approx([x * 512 for x in axes.get_xlim()]) == top.get_xlim()


def test_runs_with_other_epochs_share_the_tokens(runs):
    """Two runs of one size have the axis above; with a third of another size there are tokens below."""
    axes = drawn([runs / "a", runs / "b"], runs / "x.png")
    assert ("epochs", 1) == (axes.get_xlabel(), len(axes.child_axes))
    assert ["a", "a, validation", "b", "b, validation"] == [text.get_text() for text in axes.get_legend().get_texts()]
    assert "tokens seen" == drawn([runs / name for name in "abc"], runs / "y.pdf").get_xlabel()
    assert (runs / "y.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_metrics_give_the_same_bytes(runs):
    """The same metrics give the same PNG, PDF or SVG, because no date is stored."""
    pytest.importorskip("matplotlib")
    for suffix in ("png", "pdf"):
        for name in ("1", "2"):
            plot_losses([runs / "a"], runs / f"{name}.{suffix}")
        assert (runs / f"1.{suffix}").read_bytes() == (runs / f"2.{suffix}").read_bytes()


def test_bad_runs_say_what_is_wrong(runs):
    """Missing, empty and malformed metrics are reported."""
    (runs / "empty").mkdir()
    with pytest.raises(FormatError, match=r"metrics\.jsonl: cannot be read; give a run directory"):
        Run.read(runs / "empty")
    (runs / "empty" / "metrics.jsonl").write_text("")
    with pytest.raises(FormatError, match="no rows yet"):
        Run.read(runs / "empty")
    (runs / "empty" / "metrics.jsonl").write_text('{"epoch": "x"}\n{"epoch": 1}\n')
    with pytest.raises(FormatError, match="line 1 is not a row of metrics"):
        Run.read(runs / "empty")
    with pytest.raises(OptionError, match="no runs to plot"):
        plot_losses([], runs / "x.png")
    with pytest.raises(OptionError, match=r"must end in \.png, \.pdf, \.svg"):
        plot_losses([runs / "a"], runs / "x.gif")


def test_the_distribution_is_softmax_of_logits_over_temperature():
    """Probabilities are those of the model; top_k leaves exactly k tokens, whose probabilities sum to 1."""
    model = Scripted([290])  # logit 30 for one token, 1 for all others
    rows = next_tokens(model, "Every", temperatures=(30.0, 10.0), top_k=(None, 2), n_tokens=3)
    e = torch.tensor([1.0, 1 / 3]).mul(29 / 10).double().exp()

    assert [290, 30.0, None] == [rows[0][key] for key in ("id", "temperature", "top_k")]
    assert pytest.approx((e[1] / (e[1] + 50256)).item(), rel=1e-4) == rows[0]["probability"]
    assert pytest.approx((e[0] / (e[0] + 50256)).item(), rel=1e-4) == rows[3]["probability"]
    kept = rows[6:9]
    assert pytest.approx((e[1] / (e[1] + 1)).item(), rel=1e-4) == kept[0]["probability"]
    assert pytest.approx(1.0) == sum(row["probability"] for row in kept)
    assert 1 == sum(row["probability"] == 0 for row in kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatures": (0,)}, "temperature 0 has no distribution"),
        ({"temperatures": ()}, "nothing to plot"),
        ({"n_tokens": 0}, "nothing to plot"),
        ({"top_k": (0,)}, "top_k must be"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    """The error for each setting has its range."""
    with pytest.raises(OptionError, match=message):
        next_tokens(Scripted([290]), "a", **{"temperatures": (1,), "top_k": (None,), "n_tokens": 3, **options})


def test_the_commands_draw(tmp_path, runs, monkeypatch):
    """Zoo plot losses RUNS and zoo plot temperature write files and print their names."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    (runs / "not-a-run").mkdir()
    assert (
        "loss.png\n" == run(main, ["plot", "losses", str(runs / "a"), str(runs / "b"), str(runs / "not-a-run")]).output
    )
    assert f"{runs}/a/loss.png\n" == run(main, ["plot", "losses", str(runs / "a")]).output
    assert "x.svg\n" == run(main, ["plot", "losses", "--out", "x.svg", str(runs / "a")]).output
    assert "Draw the losses" in run(main, ["plot", "losses", "--help"]).output
    assert "runs/notes" in run(main, ["plot", "losses", "--help"]).output

    model = zoo.create(zoo.GPTConfig(context_length=9, width=30, n_heads=5, n_layers=1), seed=1)
    zoo.save(model, tmp_path / "m.safetensors")
    arguments = ["plot", "temperature", "-m", "m.safetensors", "-t", "2", "--top-k", "0", "--top-k", "4", "Every"]
    done = run(main, [*arguments, "--tokens", "5", "--json"])
    rows = json.loads(done.output)
    assert (10, {None, 4}) == (len(rows), {row["top_k"] for row in rows})
    assert (tmp_path / "temperature.png").read_bytes().startswith(b"\x89PNG")


def test_tokens_of_any_script_are_drawn(tmp_path):
    """Tokens with a dollar sign, a line end or characters that the font lacks can be plotted."""
    pytest.importorskip("matplotlib")
    model = zoo.create(zoo.GPTConfig(context_length=9, width=30, n_heads=5, n_layers=1), seed=1).eval()
    model.tokenizer.decode = lambda ids: ["$x", "\n", "\u672c", " moves"][ids[0] % 4]
    plot_temperatures(model, "a $ sign_\n$", tmp_path / "x.png", n_tokens=12)


def test_without_matplotlib_the_message_names_the_extra(tmp_path, monkeypatch):
    """Without matplotlib, the error is MissingPackage instead of ImportError."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackage, match=r"gpt2-zoo\[plot\]"):
        plot_temperatures(small_model(), "a", tmp_path / "x.png")
