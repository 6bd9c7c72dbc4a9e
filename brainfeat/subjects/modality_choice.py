"""Which modalities subjects must have, and which of them are used."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from brainfeat.exceptions import InputError, ModalityError
from brainfeat.subjects.manifest import Manifest
from brainfeat.subjects.subject import Outcome, Subject, join_modalities

__all__ = ["choose_modalities", "parse_modalities"]


def parse_modalities(
    texts: Iterable[str], modalities: Sequence[str], option: str
) -> tuple[str, ...]:
    """Read names with commas between them, in the order of the checkpoint's.

    >>> parse_modalities(["FLAIR,T1w"], ("T1w", "T2w", "FLAIR"), "--require")
    ('T1w', 'FLAIR')
    """
    names = [name.strip() for text in texts for name in text.split(",")]
    for name in names:
        if name not in modalities:
            raise ModalityError(
                f"{option}: expected some of {','.join(modalities)}, got {name!r}."
            )
    return tuple(name for name in modalities if name in names)


def choose_modalities(
    manifest: Manifest, *, required: Sequence[str] = (), only: Sequence[str] = ()
) -> Manifest:
    """Leave out rows without all ``required`` modalities, and use ``only`` some.

    Rows that are left out are failures, except one without a modality of ``only`` whose
    subject and session has another row. Raises InputError if no row remains.
    """
    rows, problems = [], []
    for row in manifest.rows:
        if lacking := [name for name in required if not row.images.get(name)]:
            reason = f"no {' and no '.join(lacking)}, --require"
            problems.append(_leave_out(row, reason))
        else:
            rows.append(row)
    if only:
        used = [replace(row, images=_take(row, only)) for row in rows]
        kept = {(row.participant_id, row.session_id) for row in used if row.images}
        problems += [
            _leave_out(row, f"no {' or '.join(only)}, --only")
            for row, chosen in zip(rows, used, strict=True)
            if not chosen.images and (row.participant_id, row.session_id) not in kept
        ]
        rows = list({row.key: row for row in used if row.images}.values())
    if not rows:
        names = ", ".join(required or only)
        raise InputError(f"expected subjects with {names}, got none: all are left out.")
    return replace(manifest, rows=tuple(rows), problems=(*manifest.problems, *problems))


def _take(row: Subject, only: Sequence[str]) -> dict[str, Any]:
    return {name: image for name, image in row.images.items() if image and name in only}


def _leave_out(row: Subject, reason: str) -> Outcome[Any]:
    has = join_modalities(row.images, list(row.images))
    text = f"{row.source_name}: left out: {reason} (has {has})."
    return Outcome(row, error=ModalityError(text))
