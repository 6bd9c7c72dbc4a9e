"""The command itself is tested in test_cli.py; here, what its parts promise."""

import pytest

from brainfeat.embed_command import EncoderOptions, embed_from_command_line
from brainfeat.exceptions import ConfigError, TableError
from brainfeat.runs import RunOptions


def test_a_number_is_a_batch_size_and_another_word_is_refused():
    assert EncoderOptions("brainfound-tiny", "mean", "cpu", "3").load().n_features > 0
    with pytest.raises(ConfigError, match="batch_size"):
        EncoderOptions("brainfound-tiny", "mean", "cpu", "many").load()


def test_the_name_of_the_table_is_read_before_the_weights(tmp_path):
    absent = EncoderOptions("absent", "mean", "cpu", "auto")
    with pytest.raises(TableError, match="expected a name that ends in"):
        embed_from_command_line(
            ["a.nii"], tmp_path / "out.xlsx", absent, RunOptions(), modalities=()
        )
