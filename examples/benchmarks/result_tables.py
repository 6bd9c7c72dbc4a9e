"""Print results as aligned markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any


def print_results(results: Mapping[str, Any]) -> None:
    """Print all sections of the results."""
    cohort = results["cohort"]
    print(
        f"{cohort['n_subjects']} subjects, {cohort['n_diseased']} with the disease, "
        f"{cohort['n_splits']} random splits by subject. Mean ± standard error over "
        "splits, which draw the labelled subjects; in brackets, 95 % intervals over "
        "the tested subjects, by bootstrap. Every subject without a label is tested."
    )
    for contrast, methods in results.get("few_labels", {}).items():
        for score in ("auc", "accuracy"):
            _print_few_labels(contrast, methods, score)
    for pair, methods in results.get("across_contrasts", {}).items():
        _print_across(pair, methods)
    if "reliability" in results:
        _print_reliability(results["reliability"])
    if results.get("seconds"):
        print("\nSeconds: ", end="")
        print(", ".join(f"{k} {v:.0f}" for k, v in results["seconds"].items()))


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    print(f"\n**{title}**\n")
    for row in (header, rule, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print(f"| {' | '.join(cells)} |")


def _print_few_labels(contrast: str, methods: Mapping[str, Any], score: str) -> None:
    name = "AUC" if score == "auc" else "Accuracy"
    labels = [*next(iter(methods.values()))]
    print_table(
        f"{name}, {contrast}, by number of labelled subjects",
        ["method", *labels],
        [
            [method, *(_show(result[n][score]) for n in labels)]
            for method, result in methods.items()
        ],
    )


def _print_across(pair: str, methods: Mapping[str, Any]) -> None:
    n_labels = next(iter(methods.values()))["n_labels"]
    columns = ("within", "across", "drop")
    print_table(
        f"AUC of {n_labels} labels, trained and tested in different contrasts: {pair}",
        ["method", *columns],
        [
            [method, *(_show(result[column]) for column in columns)]
            for method, result in methods.items()
        ],
    )


def _print_reliability(section: Mapping[str, Any]) -> None:
    chance = next(iter(section["methods"].values()))["chance"]
    print_table(
        f"{section['n_subjects']} subjects on every scanner, T1w (chance {chance:.2f})",
        ["method", "median ICC(2,1)", "scanner decoded"],
        [
            [method, f"{result['icc']:.3f}", f"{result['scanner_accuracy']:.3f}"]
            for method, result in section["methods"].items()
        ],
    )


def _show(summary: Mapping[str, float]) -> str:
    text = f"{summary['mean']:.3f} ± {summary['se']:.3f}"
    if "low" not in summary:  # results of an earlier version
        return text
    return f"{text} [{summary['low']:.2f}, {summary['high']:.2f}]"
