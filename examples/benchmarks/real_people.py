"""Measure what encoders say of real people: changes, retrieval, structures, probes.

SCANS is a folder with a `manifest.tsv` (file, modality, subject, age, sex, label_map,
brain). For each encoder, by its mean token and by its anatomy:

- changes: how far one head moves when it is scanned in another protocol, over the
  median between people;
- retrieval: whether a person's other contrast is found among all people;
- structures: volumes in ml against label maps of people who were not trained on;
- probes: age and sex by a linear probe;
- baselines: the same probes on other features, and a supervised 3D network.

    python examples/benchmarks/real_people.py SCANS
        [--checkpoint [NAME=]CHECKPOINT ...] [--cache FOLDER] [--masks FOLDER]
        [--only changes|retrieval|structures|probes|baselines ...]

Changed heads are NIfTI files that pass the whole preprocessing. Heads are stripped by
masks of others: a stripped copy, the label map, else deepbet. Preprocessed scans and
embeddings are cached by content: another checkpoint only costs its encoding.
"""

import argparse
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
from people_baselines import make_baselines
from people_cache import Item, PeopleEncoder, ScanCache
from people_parts import (
    Embedded,
    Table,
    embed_people,
    list_scans,
    tabulate_changes,
    tabulate_retrieval,
    tabulate_structures,
)
from people_probes import LinearProbe, MedianProbe, Probe, Question, score_probes
from people_scans import Person, read_people
from result_tables import print_table

from brainfeat import Checkpoint

BUNDLED = "brainfound-tiny"
TABLES = {
    "changes": tabulate_changes,
    "retrieval": tabulate_retrieval,
    "structures": tabulate_structures,
}
_CHANGED = {"changes", "structures"}  # parts that need changed scans
MARKS = "<!-- real_people.py -->", "<!-- end of real_people.py -->"
_MIN_PEOPLE = 20  # of whom age and sex are read
PARTS = (*TABLES, "probes", "baselines")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    people = read_people(options.scans, all_unseen=options.all_unseen)
    n_unseen = sum(person.is_unseen for person in people)
    print(f"{len(people)} people, {n_unseen} of whom were not trained on")
    embedded = [*embed_all(options, people)]
    tables = []
    for table in tabulate(options, embedded):
        print_table(*table[:3])
        tables.append(table)
    if options.card:
        write_card(options.card, tables)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("scans", type=Path, help="folder with a manifest.tsv")
    add("--checkpoint", nargs="+", default=[BUNDLED], metavar="[NAME=]CHECKPOINT")
    add(
        "--cache",
        type=Path,
        default=Path("real_people_cache"),
        help="default: %(default)s",
    )
    add("--masks", type=Path, help="folder of masks by deepbet")
    add("--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART")
    add("--all-unseen", action="store_true", help="no person was trained on")
    add("--dtype", default="auto", help="precision of the encoder")
    add("--card", type=Path, help="README.md whose tables are replaced")
    add("--jobs", type=int, default=1, help="processes for preprocessing")
    return parser.parse_args(arguments)


def embed_all(
    options: argparse.Namespace, people: Sequence[Person]
) -> Iterator[Embedded]:
    """Embed all scans by each encoder, and print what that takes."""
    items = list_scans(people, is_changed=bool(_CHANGED & {*options.only}))
    for text in options.checkpoint:
        name, _, source = text.rpartition("=")
        encoder = PeopleEncoder(
            name or Path(source).name, Checkpoint.load(source), options.dtype
        )
        cache = make_cache(options, encoder)
        start = time.perf_counter()
        n_ready = len(cache.prepare(items))
        prepared = time.perf_counter()
        yield embed_people(encoder, items, cache)
        seconds = prepared - start, time.perf_counter() - prepared
        print(
            f"{encoder.name}: {n_ready} of {len(items)} scans, {len(cache.seconds)} "
            f"preprocessed now in {seconds[0]:.0f} s, encoded in {seconds[1]:.0f} s"
        )


def tabulate(
    options: argparse.Namespace, embedded: Sequence[Embedded]
) -> Iterator[Table]:
    """Yield the tables of the chosen parts."""
    for part, make in TABLES.items():
        if part in options.only:
            yield from make(embedded)
    if {"probes", "baselines"} & {*options.only}:
        yield from tabulate_probes(options, embedded)


def tabulate_probes(
    options: argparse.Namespace, embedded: Sequence[Embedded]
) -> Iterator[Table]:
    """Read age and sex from embeddings, and from what else there is."""
    items = [
        item
        for item in embedded[0].positions
        if item == Item(item.person, "T1w") and item.person.age and item.person.sex
    ]
    if len(items) < _MIN_PEOPLE:
        print(f"probes: {len(items)} people with age and sex are too few")
        return
    if "probes" in options.only:
        probes = [
            LinearProbe(f"{one.encoder.name}, {pooling}", one.rows(items, pooling))
            for one in embedded
            for pooling in one.poolings
        ]
        yield tabulate_scores("By a linear probe", [MedianProbe(), *probes], items)
    if "baselines" in options.only:
        others = list_baselines(options, embedded[0], items)
        yield tabulate_scores("By other features and methods", others, items)


def tabulate_scores(
    title: str, probes: Sequence[Probe], items: Sequence[Item]
) -> Table:
    """Cross-validate probes, over all people and those whom no encoder saw."""
    questions = [
        Question.ask([item.person.age for item in items], ("MAE", "r")),
        Question.ask([item.person.sex for item in items], ("AUC",)),
    ]
    everyone = np.ones(len(items), dtype=bool)
    unseen = np.array([item.person.is_unseen for item in items])
    header = ["method"]
    for group in (everyone, unseen):
        who = f"{int(group.sum())} people"
        header += [f"age, MAE, {who}", f"age, r, {who}", f"sex, AUC, {who}"]
    title += (
        f": age and sex of {len(items)} people, cross-validated, with 95 % intervals "
        f"over people; and of the {int(unseen.sum())} of them whose scans were not "
        "trained on"
    )
    return Table(title, header, [*score_probes(probes, questions, (everyone, unseen))])


def write_card(path: Path, tables: Sequence[Table]) -> None:
    """Put the tables, but for details, between the two marks of a model card."""
    text = io.StringIO()
    with redirect_stdout(text):
        for table in tables:
            if not table.is_detail:
                print_table(*table[:3])
    before, start, rest = path.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise SystemExit(f"{path}: expected the marks {MARKS[0]} and {MARKS[1]}")
    path.write_text(f"{before}{start}\n{text.getvalue()}\n{end}{after}")
    print(f"\nwrote {path}")


def list_baselines(
    options: argparse.Namespace, first: Embedded, items: Sequence[Item]
) -> list[Probe]:
    """Return the untrained encoder and the methods without an encoder."""
    config = replace(first.encoder.checkpoint.config, trained=False)
    untrained = Checkpoint.untrained(config, seed=0)
    encoder = PeopleEncoder("untrained", untrained, options.dtype)
    cache = make_cache(options, encoder)
    rows = encoder.embed(cache.prepare(items), cache.folder).mean
    return [LinearProbe("untrained, mean", rows), *make_baselines(items, cache)]


def make_cache(options: argparse.Namespace, encoder: PeopleEncoder) -> ScanCache:
    return ScanCache(options.cache, encoder.preprocessor, options.masks, options.jobs)


if __name__ == "__main__":
    main()
