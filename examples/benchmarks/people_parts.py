"""The parts of the table on real people that need no training: tables of results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from people_cache import Features, Item, PeopleEncoder, ScanCache
from people_changes import CHANGES, STRIPPED, can_change
from people_scans import Person
from people_statistics import (
    Agreement,
    count_found,
    measure_agreement,
    median_between,
    relative_changes,
    standardise,
)
from people_structures import confuses_sides, join_sides, true_volumes

Floats = NDArray[Any]
POOLINGS = ("mean", "anatomy")
_FINE = 1.5  # mm: the largest edge of the voxels of a fine head
_COPIES = ("", "3 mm voxels", "5 mm axial slices")  # whose structures are measured
_MIN_PEOPLE = 3  # whose volumes are compared with each other
_OTHER_CONTRASTS = ("T2w", "FLAIR")


class Table(NamedTuple):
    """A table of results."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_detail: bool = False  # left out of a model card


@dataclass(frozen=True, eq=False)
class Embedded:
    """Rows of one encoder by scan."""

    encoder: PeopleEncoder
    features: Features
    positions: Mapping[Item, int]

    @property
    def poolings(self) -> tuple[str, ...]:
        """What this encoder can be pooled by."""
        return POOLINGS if self.encoder.tissues else POOLINGS[:1]

    def rows(self, items: Sequence[Item], pooling: str) -> Floats:
        """Return the embeddings of scans."""
        chosen = [self.positions[item] for item in items]
        if pooling == "mean":
            return self.features.mean[chosen]
        return self.features.shares(len(self.encoder.tissues))[chosen]

    def volumes(self, items: Sequence[Item]) -> dict[str, Floats]:
        """Return the ml of each structure, and of sums of left and right."""
        ml = self.features.ml[[self.positions[item] for item in items]]
        columns = dict(zip(self.encoder.structures, ml.T, strict=True))
        return {
            name: np.sum([columns[member] for member in members], axis=0)
            for name, members in join_sides(columns).items()
        }

    def knows(self, item: Item) -> bool:
        """Whether the scan could be prepared."""
        return item in self.positions


def list_scans(people: Sequence[Person], *, is_changed: bool) -> list[Item]:
    """Return all scans of people, and the changed ones of heads if asked for."""
    items = [Item(person, modality) for person in people for modality in person.scans]
    for person in people if is_changed else ():
        # Of a large set the unseen people are enough.
        if person.is_head and (person.is_unseen or person.label_map is None):
            spacing = person.scans["T1w"].spacing
            items += [
                Item(person, "T1w", change)
                for change in CHANGES
                if can_change(spacing, change)
            ]
    return items


def embed_people(
    encoder: PeopleEncoder, items: Sequence[Item], cache: ScanCache
) -> Embedded:
    """Embed scans of people, but for those in which no brain is found."""
    paths = cache.prepare(items)
    features = encoder.embed(paths, cache.folder)
    return Embedded(encoder, features, {item: n for n, item in enumerate(paths)})


def tabulate_changes(embedded: Sequence[Embedded]) -> Iterator[Table]:
    """Compare changes of one head with the differences between people."""
    known = [item for item in embedded[0].positions if item.change]
    known = [item for item in known if all(one.knows(item) for one in embedded)]
    for is_fine in (True, False):
        items = {
            change: [
                item
                for item in known
                if item.change == change and is_fine_head(item.person) == is_fine
            ]
            for change in CHANGES
        }
        items = {change: mine for change, mine in items.items() if mine}
        if items:
            yield from _change_tables(embedded, items, is_fine)
    yield Table(
        "What changes are divided by: median of (1 - cosine) between people, T1w; and "
        "the effective rank of all",
        ["encoder", "all", "people", "without IXI", "people", "effective rank"],
        [_between_row(one, pooling) for one in embedded for pooling in one.poolings],
    )


def _change_tables(
    embedded: Sequence[Embedded], items: Mapping[str, Sequence[Item]], is_fine: bool
) -> Iterator[Table]:
    """Yield medians and worst, and which heads are the worst."""
    size = f"up to {_FINE} mm" if is_fine else "about 2 mm"
    counts = [f"{change} ({len(mine)})" for change, mine in items.items()]
    worst = []
    for scaled in (False, True):
        rows = []
        for one in embedded:
            for pooling in one.poolings:
                name = f"{one.encoder.name}, {pooling}"
                ratios = {
                    change: _change_ratios(one, pooling, mine, scaled)
                    for change, mine in items.items()
                }
                cells = [f"{np.median(r):.2f} / {r.max():.2f}" for r in ratios.values()]
                rows.append([name, *cells])
                most = [items[c][int(r.argmax())] for c, r in ratios.items()]
                if not scaled:
                    worst.append([name, *(item.person.name for item in most)])
        title = (
            "(1 - cosine) of one head under a change, over the median between people; "
            f"median / worst of the heads with voxels of {size}"
        )
        title += ", standardised features" if scaled else ""
        yield Table(title, ["encoder (heads)", *counts], rows, is_detail=scaled)
    yield Table("The worst of these heads", ["encoder", *items], worst, is_detail=True)


def tabulate_retrieval(embedded: Sequence[Embedded]) -> Iterator[Table]:
    """Find the other contrast of a person."""
    for scaled in (False, True):
        header = ["encoder"]
        rows = []
        for one in embedded:
            for pooling in one.poolings:
                found = _retrieve(one, pooling, scaled)
                header = ["encoder", *found]
                rows.append([f"{one.encoder.name}, {pooling}", *found.values()])
        how = "standardised features" if scaled else "features as they are"
        title = f"The scan of the same person found by cosine, {how}"
        if len(header) > 1:
            yield Table(title, header, rows, is_detail=scaled)


def tabulate_structures(embedded: Sequence[Embedded]) -> Iterator[Table]:
    """Compare volumes in ml with label maps of people who were not trained on."""
    people = [
        item.person
        for item in embedded[0].positions
        if item == Item(item.person, "T1w") and item.person.is_unseen
    ]
    truths = {p: true_volumes(p.label_map) for p in people if p.label_map is not None}
    for person in [p for p, truth in truths.items() if confuses_sides(truth)]:
        print(f"left out: the label map of {person.name} confuses left and right")
        del truths[person]
    for one in embedded:
        if not one.features.ml.shape[1]:
            continue
        for group in _group_by_kind(truths):
            if len(group) >= _MIN_PEOPLE:
                yield from _split(_agreement_table(one, group, truths))
                continue
            for person in group:
                yield from _split(_single_table(one, person, truths[person]))
        yield from _contrast_table(one)


def _group_by_kind(truths: Mapping[Person, Mapping[str, float]]) -> list[list[Person]]:
    """Group people whose label maps name the same structures."""
    groups: dict[tuple[str, ...], list[Person]] = {}
    for person, truth in truths.items():
        groups.setdefault(tuple(truth), []).append(person)
    return [*groups.values()]


def _change_ratios(
    one: Embedded, pooling: str, items: Sequence[Item], scaled: bool
) -> Floats:
    everyone = one.rows(_all_t1w(one), pooling)
    original = one.rows([Item(item.person, "T1w") for item in items], pooling)
    changed = one.rows(items, pooling)
    if scaled:
        rows = (everyone, original, changed)
        everyone, original, changed = (standardise(r, everyone) for r in rows)
    return relative_changes(original, changed, median_between(everyone))


def is_fine_head(person: Person) -> bool:
    """Whether the T1w scan has small voxels."""
    return max(person.scans["T1w"].spacing) <= _FINE


def _all_t1w(one: Embedded) -> list[Item]:
    """Return one T1w scan of each person."""
    return [
        item for item in one.positions if (item.modality, item.change) == ("T1w", "")
    ]


def _between_row(one: Embedded, pooling: str) -> list[str]:
    everyone = _all_t1w(one)
    others = [i for i in everyone if not i.person.scans["T1w"].name.startswith("ixi/")]
    rows = one.rows(everyone, pooling)
    without = one.rows(others, pooling)
    return [
        f"{one.encoder.name}, {pooling}",
        f"{median_between(rows):.2e}",
        str(len(everyone)),
        f"{median_between(without):.2e}" if len(others) > 1 else "-",
        str(len(others)),
        f"{effective_rank(rows):.1f}",
    ]


def effective_rank(rows: Floats) -> float:
    """Return the participation ratio of the variances of principal components."""
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    return float(values.sum() ** 2 / np.square(values).sum())


def _retrieve(one: Embedded, pooling: str, scaled: bool) -> dict[str, str]:
    everyone = _all_t1w(one)
    reference = one.rows(everyone, pooling)

    def rows(items: Sequence[Item]) -> Floats:
        found = one.rows(items, pooling)
        return standardise(found, reference) if scaled else found

    cells = {}
    for modality in _OTHER_CONTRASTS:
        others = [
            item
            for item in one.positions
            if item.modality == modality and "T1w" in item.person.scans
        ]
        mine = [Item(item.person, "T1w") for item in others]
        both = np.arange(len(others))
        among_all = np.array([everyone.index(item) for item in mine], dtype=int)
        for query, name, candidates, matches in (
            (others, f"T1w by {modality}", mine, both),
            (others, f"T1w by {modality}", everyone, among_all),
            (mine, f"{modality} by T1w", others, both),
        ):
            if len(candidates) > 1 and query:
                n_found = count_found(rows(query), rows(candidates), matches)
                label = f"{name}, of {len(candidates)}"
                cells[label] = f"{n_found}/{len(query)} = {n_found / len(query):.2f}"
    return cells


def _agreement_table(
    one: Embedded,
    people: Sequence[Person],
    truths: Mapping[Person, Mapping[str, float]],
) -> Table:
    copies = {}
    for change in _COPIES:
        items = [Item(person, "T1w", change) for person in people]
        items = [item for item in items if one.knows(item)]
        copies[change] = [item.person for item in items], one.volumes(items)
    names = [name for name in copies[""][1] if name in truths[people[0]]]
    rows = []
    for name in names:
        found = {
            change: measure_agreement(
                volumes[name], np.array([truths[person][name] for person in known])
            )
            for change, (known, volumes) in copies.items()
            if len(known) >= _MIN_PEOPLE
        }
        mean = np.mean([truths[person][name] for person in people])
        rows.append([name, f"{mean:.1f}", *_agreement_cells(found)])
    header = ["structure", "true ml", "ratio", "Spearman", "slope"]
    header += [f"{what}, {c}" for c in _COPIES[1:] for what in ("Spearman", "slope")]
    title = (
        f"{one.encoder.name}: volumes against label maps of {len(people)} people who "
        "were not trained on; ratio is a median, slope of the prediction on the truth"
    )
    return Table(title, header, rows)


def _split(table: Table) -> Iterator[Table]:
    """Show left and right of structures in a table of their own."""
    sided = [row for row in table.rows if row[0].endswith(("_left", "_right"))]
    yield table._replace(rows=[row for row in table.rows if row not in sided])
    if sided:
        yield table._replace(rows=sided, is_detail=True)


def _agreement_cells(found: Mapping[str, Agreement]) -> list[str]:
    cells = [f"{found[''].ratio:.2f}", str(found[""].spearman), str(found[""].slope)]
    for change in _COPIES[1:]:
        if change in found:
            agreement = found[change]
            cells += [f"{agreement.spearman.value:.2f}", f"{agreement.slope.value:.2f}"]
        else:
            cells += ["-", "-"]
    return cells


def _single_table(one: Embedded, person: Person, truth: Mapping[str, float]) -> Table:
    """Compare one person's volumes with the label map: predicted over true."""
    items = [Item(person, "T1w", change) for change in (*_COPIES, STRIPPED)]
    items = [item for item in items if one.knows(item)]
    volumes = one.volumes(items)
    rows = [
        [name, f"{truth[name]:.2f}", *(f"{v / truth[name]:.2f}" for v in values)]
        for name, values in volumes.items()
        if truth.get(name)
    ]
    header = ["structure", "true ml", *(item.change or "as it is" for item in items)]
    return Table(
        f"{one.encoder.name}: volumes of {person.name}, predicted over true",
        header,
        rows,
    )


def _contrast_table(one: Embedded) -> Iterator[Table]:
    """Compare the volumes of a person's T2w with those of the T1w."""
    pairs = [
        (Item(item.person, "T1w"), item)
        for item in one.positions
        if item.modality == "T2w" and "T1w" in item.person.scans
    ]
    if len(pairs) < _MIN_PEOPLE:
        return
    first, second = (one.volumes(items) for items in zip(*pairs, strict=True))
    rows = []
    for name, values in first.items():
        found = measure_agreement(second[name], values)
        cells = str(found.spearman), f"{found.slope.value:.2f}", f"{found.ratio:.2f}"
        rows.append([name, *cells])
    title = f"{one.encoder.name}: volumes by T2w against T1w of {len(pairs)} people"
    table = Table(title, ["structure", "Spearman", "slope", "ratio"], rows)
    yield from _split(table)
