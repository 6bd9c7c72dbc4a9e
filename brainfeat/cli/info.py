"""``brainfeat info``."""

__all__ = ["format_known", "info", "list_known"]

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from brainfeat.display.summarised import format_facts
from brainfeat.exceptions import UntrainedCheckpointWarning

if TYPE_CHECKING:
    from brainfeat.checkpoint.known_encoder import KnownEncoder

_LEGEND = """
here: in {home} ($BRAINFEAT_HOME) or in the cache of the hub
ask: the authors give access on request
'brainfeat info NAME' shows one: its origin, licence, input and feature."""


def info(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Name, folder, weights, or hf-hub:org/name; none: list the encoders.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Describe a checkpoint, or list the encoders that are known."""
    from brainfeat.checkpoint.known import KNOWN_ENCODERS, find_known
    from brainfeat.segmentation.locate import bundled_models

    name = checkpoint or ""
    known = find_known(name)
    family = [k for k in KNOWN_ENCODERS.values() if k.name.startswith(f"{name}-")]
    if not name:
        typer.echo(list_known(KNOWN_ENCODERS.values()))
        typer.echo(_list_models())
    elif name in bundled_models():
        typer.echo(_format_model(name))
    elif known is not None and known.layout:
        typer.echo(format_known(known))
    elif family:
        typer.echo(list_known(family))
    else:
        _describe(name)


def _describe(name: str) -> None:
    from brainfeat.checkpoint.checkpoint import Checkpoint

    # The summary has it as its state.
    warnings.simplefilter("ignore", UntrainedCheckpointWarning)
    typer.echo(Checkpoint.load(name).summary())


def _list_models() -> str:
    """List the segmentations that are bundled."""
    from brainfeat.segmentation.locate import bundled_models

    lines = (f"{name}  for 'brainfeat segment predict'" for name in bundled_models())
    return "\nsegmentations: " + "\n               ".join(lines)


def _format_model(name: str) -> str:
    """Format the properties of a bundled segmentation."""
    from brainfeat.io.json_files import read_json
    from brainfeat.segmentation.locate import LICENCE_NAME, MODEL_NAME, locate_model

    folder = locate_model(name)
    content = read_json(folder / MODEL_NAME, "a segmentation model")
    names = [n for label, n in content["names"].items() if label != "0"]
    size = sum(path.stat().st_size for path in folder.iterdir())
    items = [
        ("segmentation", name),
        ("use", f"brainfeat segment predict {name} SCANS -o FOLDER"),
        ("structures", f"{len(names)}: {', '.join(names)}"),
        ("takes", f"{', '.join(content['modalities'])}, any of them missing"),
        ("encoder", content.get("encoder_name") or "its own"),
        ("licence", (folder / LICENCE_NAME).read_text(encoding="utf-8").strip()),
        ("size", f"{size / 2**20:.1f} MiB"),
        ("card", str(folder / "README.md")),
    ]
    return format_facts(items)


def list_known(encoders: "Iterable[KnownEncoder]") -> str:
    """Format a table of encoders: names, licences, and where the weights are."""
    from brainfeat.checkpoint.locate import home_folder

    rows = [("NAME", "LICENCE", "WEIGHTS")]
    rows += [(known.name, known.licence.summary, _place(known)) for known in encoders]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
        for row in rows
    ]
    legend = _LEGEND.format(home=home_folder())
    return "\n".join(map(str.rstrip, lines)) + "\n" + legend


def format_known(known: "KnownEncoder") -> str:
    """Format the card of a known encoder."""
    items = [
        ("encoder", known.title),
        ("licence", str(known.licence)),
        ("page", known.page),
        ("weights", _describe_place(known)),
        ("SHA-256", ", ".join(known.sha256.values())),
        ("network", known.network),
        ("trained on", known.trained_on),
        ("takes", known.takes),
        ("input", known.prepared),
        ("feature", known.feature),
        ("poolings", ", ".join(("default", *known.poolings))),
        ("reported", known.reported),
        *(("note", caveat) for caveat in known.caveats),
    ]
    return format_facts(items)


def _place(known: "KnownEncoder") -> str:
    from brainfeat.checkpoint.locate import find_downloaded

    if not known.layout:
        return "bundled"
    if find_downloaded(known) is not None:
        return "here"
    asked = ", ask" if known.is_gated else ""
    return f"hub{asked}" if known.hub else "web page"


def _describe_place(known: "KnownEncoder") -> str:
    from brainfeat.checkpoint.locate import find_downloaded, home_folder

    found = find_downloaded(known)
    if found is not None:
        return str(found)
    file = known.files[0] if known.files else f"{known.name}.pth"
    place = f"not on this machine; download them to {home_folder() / file}"
    if known.hub:
        asked = "; ask for access on its page before" if known.is_gated else ""
        return f"fetched from the hub at first use{asked}: hf-hub:{known.hub}"
    copies = " or ".join(f"hf-hub:{copy}" for copy in known.copies)
    return f"{place}{f'; copies of others: {copies}' if copies else ''}"
