"""One seed, one text: from the command, one by one, in a batch, and on torch."""

import json

import pytest
from click.testing import CliRunner

import zoo
from zoo.cli.main import main
from zoo.engine import is_built

PROMPTS = [
    "Once upon a time", "The king said", "There was a girl who", "In the forest", "An old woman", "Who are you?",
    "One day", "The wolf", "Far away", "The youngest son", "She looked", "A fisherman", "At night", "The queen was",
    "Then", "Every effort moves you", "When the sun rose", "He had three", "Nobody knew", "The sea",
]  # fmt: skip
OPTIONS = {"max_new_tokens": 100}


def command_texts(tmp_path, engine):
    """The texts of `zoo generate --prompts`; its only options are those that the test names."""
    lines = [{"prompt": prompt, "seed": seed} for seed, prompt in enumerate(PROMPTS)]
    source, out = tmp_path / "in.jsonl", tmp_path / f"{engine}.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["generate", "-m", "stories", "--dtype", "float32", "--engine", engine, "-n", "100", "--batch", "20"]
    done = CliRunner().invoke(main, [*command, "--prompts", str(source), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return [json.loads(line)["text"] for line in out.read_text().splitlines()]


@pytest.mark.long
@pytest.mark.skipif(not is_built(), reason="the C library was not built here")
def test_the_same_seed_gives_the_same_text_everywhere(tmp_path):
    """20 sampled texts of 100 tokens of `stories` in float32: from the command, alone, in batches, on torch."""
    model = zoo.load("stories", dtype="float32")
    alone = [zoo.complete(model, prompt, seed=seed, **OPTIONS) for seed, prompt in enumerate(PROMPTS)]
    items = ((prompt, zoo.GenerationOptions(seed=seed, **OPTIONS)) for seed, prompt in enumerate(PROMPTS))
    together = [""] * len(PROMPTS)
    for i, token in zoo.generate_many(model, items, batch=7):
        together[i] += token.text
    samples = zoo.complete_batch(model, [PROMPTS[3]], n_samples=4, seed=0, **OPTIONS)
    single = CliRunner().invoke(
        main, ["generate", "-m", "stories", "--dtype", "float32", "-n", "100", "--seed", "3", "--no-prompt", PROMPTS[3]]
    )

    assert len(set(alone)) == 20
    assert alone == together
    assert alone[3] == samples[3]
    assert alone[3] + "\n" == single.stdout
    assert alone == command_texts(tmp_path, "native")
    assert alone == command_texts(tmp_path, "torch")
