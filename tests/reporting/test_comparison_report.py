import re
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from brainfeat.cli import app as cli
from brainfeat.exceptions import InputError, TableError
from brainfeat.reporting.comparison_report import (
    ComparisonOptions,
    report_on_comparison,
)
from brainfeat.reporting.forest import ForestLine, curves_svg, forest_svg

N = 44


def write_table(path, rng, names, effect, **columns):
    """A table as other programs write it: ids and features."""
    sick = np.array([int(name.split("-")[1]) % 2 for name in names])
    rows = rng.normal(size=(len(names), 5))
    rows[:, 0] += effect * sick
    table = pd.DataFrame({"participant_id": names, **columns})
    features = pd.DataFrame(rows, columns=[f"emb_{n:03d}" for n in range(5)])
    pd.concat([table, features], axis=1).to_csv(path, index=False)
    return path


@pytest.fixture
def tables(tmp_path, rng):
    names = [f"sub-{n}" for n in range(N)]
    good = write_table(tmp_path / "good.csv", rng, names, 2.5)
    doubts = ["" if n else "low similarity" for n in range(N - 3)]
    noise = write_table(tmp_path / "noise.csv", rng, names[3:], 0.0, qc_doubt=doubts)
    return [good, noise]


@pytest.fixture
def participants(tmp_path):
    path = tmp_path / "participants.tsv"
    frame = pd.DataFrame(
        {
            "participant_id": [f"sub-{n}" for n in range(N)],
            "diagnosis": ["AD" if n % 2 else "CN" for n in range(N)],
            "stage": ["low", "middle", "high", "n/a"] * (N // 4),
            "age": np.linspace(50, 80, N).round(1),
            "scanner": ["GE"] * (N // 2) + ["Siemens"] * (N // 2),
        }
    )
    frame.to_csv(path, sep="\t", index=False)
    return path


def test_page_has_scores_differences_and_what_is_left_out(tables, participants):
    report = report_on_comparison(tables, labels=participants)
    assert report.path == tables[0].with_name("compare.html")
    assert report.comparison.n_dropped == {"good": 3, "noise": 0}
    text = report.path.read_text()
    assert "Rows left out" in text
    assert "good 3" in text
    assert "1 rows are in doubt (column qc_doubt), and included" in text
    assert "site read (chance 0.50)" in text
    assert not re.search(r'(src|href)="(?!data:)', text)  # one file
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(svg)
    scores = pd.read_csv(report.path.with_name("compare.scores.tsv"), sep="\t")
    pd.testing.assert_frame_equal(scores, report.comparison.scores)
    lines = report.path.with_name("compare.differences.tsv").read_text().splitlines()
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("column", "metric"), [("stage", "balanced accuracy"), ("age", "MAE")]
)
def test_other_labels_are_compared_in_another_folder(
    tables, participants, tmp_path, column, metric
):
    options = ComparisonOptions(label_column=column)
    folder = tmp_path / "pages"
    report = report_on_comparison(tables, folder, labels=participants, options=options)
    assert report.path == folder / "compare.html"
    assert metric in report.comparison.metrics
    if column == "stage":
        assert report.comparison.n_rows == N - 3 - N // 4


def test_doubtful_rows_are_left_out_on_request(tables, participants):
    options = ComparisonOptions(exclude_doubtful=True)
    report = report_on_comparison(tables, labels=participants, options=options)
    assert report.comparison.n_dropped == {"good": 4, "noise": 1}
    assert "in doubt (column qc_doubt), and left out" in report.path.read_text()


def test_tables_of_the_same_name_are_named_by_their_folders(
    tables, participants, tmp_path
):
    (tmp_path / "other").mkdir()
    twin = tables[0].rename(tmp_path / "other" / "noise.csv")
    report = report_on_comparison([twin, tables[1]], labels=participants)
    assert report.comparison.names == ["other/noise", f"{tmp_path.name}/noise"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["good.csv"], "expected at least two tables, or one and --baseline"),
        (["good.csv", "good.csv"], "given more than once"),
        (["good.csv", "none.csv"], "none.csv: no such file"),
        (["good.csv", "noise.csv", "--label-column", "dx"], "a column 'dx' of labels"),
        (["good.csv", "noise.csv", "--site-column", "x"], "--site-column: expected"),
        (["good.csv", "noise.csv", "--pos-label", "MCI"], "pos_label: expected one of"),
        (["good.csv", "noise.csv", "--task", "numbers"], "y: expected numbers, got AD"),
        (["good.csv", "noise.csv", "--baseline", "x"], "expected untrained or volum"),
        (["good.csv", "noise.csv", "-o", "good.csv/x.html"], "good.csv/x.html"),
    ],
)
def test_wrong_arguments_get_one_line(
    tables, participants, monkeypatch, arguments, message
):
    assert tables
    monkeypatch.chdir(participants.parent)
    given = ["compare", *arguments, "--labels", "participants.tsv"]
    result = CliRunner().invoke(cli.app, given)
    assert result.exit_code == 2
    text = " ".join(result.stderr.replace("\u2502", " ").split())
    assert message in text
    if text.startswith("error"):
        assert len(result.stderr.splitlines()) == 1


def test_tables_without_a_label_or_common_rows_are_refused(tables, tmp_path, rng):
    with pytest.raises(InputError, match="--label-column: expected a column of labels"):
        report_on_comparison(tables)
    others = write_table(tmp_path / "z.csv", rng, ["new-1", "new-2"], 0.0, dx=[0, 1])
    with pytest.raises(InputError, match="rows that all tables have, got none"):
        report_on_comparison([others, tables[0]])
    (tmp_path / "empty.csv").write_text("participant_id\nsub-1\n")
    with pytest.raises(TableError, match="expected columns emb_"):
        report_on_comparison([tmp_path / "empty.csv", tables[0]])


def test_command_prints_the_scores(tables, participants):
    arguments = ["compare", *map(str, tables), "--labels", str(participants)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0
    assert result.stderr == "rows left out: good 3\n"
    lines = result.stdout.splitlines()
    assert lines[0].startswith("AD against CN: 41 rows of 41 subjects")
    assert lines[1].split() == ["AUC", "balanced", "accuracy"]
    assert lines[2].startswith("good ")
    assert any(line.startswith("good - noise") for line in lines)
    assert lines[-1].startswith("page: ")


def test_intervals_of_a_forest_lie_where_their_numbers_say():
    lines = [
        ForestLine("a", 0.5, 0.2, 0.9, ""),
        ForestLine("b", 0.7, 0.6, 0.8, ""),
        ForestLine("c<", np.nan, np.nan, np.nan, "undefined"),
    ]
    svg = forest_svg(lines, "AUC", 0.5)
    ET.fromstring(svg)
    bars = re.findall(r'd="M([\d.]+) \d+H([\d.]+)" stroke="#', svg)
    (a, b), (c, d) = [tuple(map(float, bar)) for bar in bars]
    assert (b - a) / (d - c) == pytest.approx(3.5, rel=0.01)
    assert a < c < d < b
    reference = float(re.search(r'd="M([\d.]+) 8V', svg)[1])
    square = float(re.search(r'd="M([\d.]+) \d+h10', svg)[1]) + 5
    assert square == pytest.approx(reference, abs=0.2)


@pytest.mark.parametrize("value", [0.0, 0.5, -1e4, np.nan])
def test_forest_of_equal_values_is_drawn(value):
    svg = forest_svg([ForestLine("a", value, value, value, "")] * 2, "R2")
    ET.fromstring(svg)
    assert "nan" not in svg


@pytest.mark.parametrize("values", [(-3.2, 1.0), (0.41, 0.97), (3.0, 5.5e4)])
def test_ticks_are_few_and_enclose_the_values(values):
    ends = ForestLine("a", *[values[0]] * 2, values[1], "")
    svg = forest_svg([ends], "MAE")
    texts = re.findall(r'text-anchor="middle">([^<A-Z]+)</text>', svg)
    ticks = [float(text.replace("\u2212", "-")) for text in texts]
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= values[0] < values[1] <= ticks[-1]


def test_curves_share_their_axes():
    curves = {"a": [(10, 0.5, 0.1), (40, 0.9, 0.1)], "b": [(10, 0.9, 0.1)]}
    svg = curves_svg(curves, "R2", 0.0)
    ET.fromstring(svg)
    assert svg.count("<polyline") == 2
    ((a,), (b,)) = (
        re.findall(rf'points="([^"]+)" fill="none" stroke="{color}"', svg)
        for color in ("#0072b2", "#d55e00")
    )
    assert a.split()[1].split(",")[1] == b.split(",")[1]
