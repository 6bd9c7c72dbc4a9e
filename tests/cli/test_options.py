from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from brainfeat.cli.options import CommandOfLabels


@pytest.fixture
def app():
    app = typer.Typer()

    @app.command(cls=CommandOfLabels)
    def show(
        folder: str,
        level: str,
        participant_label: Annotated[list[str] | None, typer.Option()] = None,
        jobs: int = 1,
    ):
        typer.echo(f"{folder} {level} {participant_label} {jobs}")

    return app


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("a/b group", "a/b group None 1"),
        ("a/b group --participant-label 01", "a/b group ['01'] 1"),
        ("a/b group --participant-label 01 02", "a/b group ['01', '02'] 1"),
        ("a/b group --participant-label 01 02 --jobs 3", "a/b group ['01', '02'] 3"),
        ("--participant-label 01 02 a/b group", "a/b group ['01', '02'] 1"),
        ("a/b --participant-label 01 participant", "a/b participant ['01'] 1"),
    ],
)
def test_labels_end_at_other_arguments(app, arguments, expected):
    result = CliRunner().invoke(app, arguments.split())
    assert result.output.strip() == expected


@pytest.mark.parametrize("rest", ["", "--jobs 3", "group"])
def test_option_without_a_label_is_rejected(app, rest):
    arguments = f"a/b group --participant-label {rest}".split()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "expected a label" in result.output
