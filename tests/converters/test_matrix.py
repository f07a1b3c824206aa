"""From every format to every other and back, bit for bit; what a format cannot hold is refused by name."""

from pathlib import Path

import pytest
from format_matrix import CONFIGS, VERDICTS, both_ways, config_of, journeys

import zoo
from zoo.errors import CannotHold
from zoo.formats.registry import usable_formats


@pytest.mark.parametrize("letter", CONFIGS)
def test_there_and_back_changes_nothing(tmp_path, letter):
    """A -> B -> A has A's bits, config and content hash, for every pair that can hold the config; none else refuses."""
    cannot = {each.name for each in both_ways() if each.cannot_hold(config_of(letter))}
    wrong = [
        (first, second, what)
        for first, second, what in journeys(tmp_path, letter)
        if what != ("refused" if {first, second} & cannot else "")
    ]
    assert [] == wrong


@pytest.mark.parametrize("letter", CONFIGS)
def test_refusals_say_which_field(tmp_path, letter):
    """The message names the format, the field and its value; nothing is written."""
    model = zoo.create(config_of(letter), seed=1)
    zoo.save(model, tmp_path / "model.safetensors")
    for each in usable_formats():
        if not each.writes or not each.cannot_hold(model.config):
            continue
        with pytest.raises(CannotHold, match=rf"{each.name} cannot hold this model: it has no place for \w+ "):
            zoo.convert(tmp_path / "model.safetensors", tmp_path / "out", to=each.name, strict=True)
    assert [tmp_path / "model.safetensors"] == list(tmp_path.iterdir())


def test_every_written_format_has_a_verdict():
    """The table names a file of tests for each, and the file is there."""
    written = {each.name for each in usable_formats() if each.writes and "example" not in each.name}
    assert written == set(VERDICTS)
    for _, file in VERDICTS.values():
        assert (Path(__file__).parent / file).is_file()
