"""Arguments and options of the commands, each declared once."""

__all__ = [
    "BackendOption",
    "BatchOption",
    "CheckpointOption",
    "CommandOfLabels",
    "CoregisterOption",
    "DeviceOption",
    "DevicesOption",
    "DtypeOption",
    "FilterFileOption",
    "InputsArgument",
    "JobsOption",
    "LabelColumnOption",
    "LogFileOption",
    "MemoryOption",
    "ModalityOption",
    "OnlyOption",
    "OptionalTableOption",
    "OverwriteOption",
    "ParticipantLabelOption",
    "PoolingOption",
    "RequireOption",
    "SchedulerOption",
    "SeedOption",
    "SessionLabelOption",
    "StepsOption",
    "StopOption",
    "StrictOption",
    "TableOption",
    "VerboseOption",
    "check_is_new",
    "check_output",
]

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.atomic import check_can_write

_LABEL_OPTIONS = {"participant-label", "session-label"}


def check_is_new(folder: Path) -> None:
    """Check that a folder to write does not exist yet, or is empty."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not an empty folder.")


def check_output(path: Path, *, is_folder: bool = False) -> None:
    """Check, before any work, that an output can be written."""
    try:
        check_can_write(path, is_folder=is_folder)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({brief_reason(error)})."
        ) from error


def _count_jobs(jobs: int) -> int:
    if jobs == 0:
        raise typer.BadParameter("expected a number other than 0.")
    if jobs > 0:
        return jobs
    from brainfeat.models.threads import resolve_n_jobs

    return resolve_n_jobs(jobs)


def _check_memory(gigabytes: float) -> float:
    if not 0.001 <= gigabytes <= 1e6:
        raise typer.BadParameter(f"expected 0.001 to 1000000 GB, got {gigabytes:g}.")
    return gigabytes


InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Images, globs, folders, a CSV or TSV manifest, or a BIDS folder.",
    ),
]
TableOption = Annotated[
    Path,
    typer.Option(
        "-o", "--output", help="Table: .parquet, .csv or .tsv; .npy for one image."
    ),
]
OptionalTableOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Table: .parquet, .csv or .tsv.")
]
CheckpointOption = Annotated[
    str,
    typer.Option(
        help="Name ('brainfeat info' lists them), folder, weights, or hf-hub:org/name."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DevicesOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda:1, ...; several with commas: one process each.",
    ),
]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(help="Precision; set it if several kinds of machines take part."),
]
JobsOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        callback=_count_jobs,
        help="Scans to preprocess in parallel; -1: one per core.",
    ),
]
PoolingOption = Annotated[
    Literal["mean", "cls", "cls+mean", "anatomy", "anatomy_ml", "default"],
    typer.Option(
        help="From tokens to one vector; anatomy: fraction of each tissue and "
        "structure; anatomy_ml: their ml; default: as the encoder's authors do."
    ),
]
BatchOption = Annotated[
    str, typer.Option("--batch-size", metavar="N", help="Subjects per batch, or auto.")
]
StopOption = Annotated[
    bool, typer.Option("--stop-on-first-error", help="Stop at the first bad scan.")
]
CoregisterOption = Annotated[
    bool,
    typer.Option(
        "--coregister", help="Register further modalities of a subject to its first."
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="A doubt whether a brain was found is a failure."),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing table.")
]
BackendOption = Annotated[
    Literal["threads", "dask", "ray"],
    typer.Option(help="threads: this process; dask, ray: the workers of a cluster."),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Address of the cluster; none: start one."),
]
MemoryOption = Annotated[
    float,
    typer.Option(
        metavar="GB", callback=_check_memory, help="Reject scans that need more memory."
    ),
]
LogFileOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Append the log of the run to a file, too."),
]
VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Log details, and tracebacks of errors.")
]
ModalityOption = Annotated[
    list[str] | None,
    typer.Option(
        "--modality",
        metavar="SUFFIX",
        help="BIDS suffix such as T1w; repeat for several.",
    ),
]
RequireOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SUFFIX,...",
        help="Leave out subjects without all of these modalities, such as T1w,FLAIR.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SUFFIX,...", help="Embed from these modalities alone, such as T1w."
    ),
]
LabelColumnOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of the classes.")
]
StepsOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Number of training steps.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of the random numbers.")]
FilterFileOption = Annotated[
    Path | None,
    typer.Option(
        "--bids-filter-file",
        metavar="FILE",
        help='JSON that chooses images of BIDS: {"T1w": {"acquisition": "mprage"}}.',
    ),
]
ParticipantLabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--participant-label",
        "--participant_label",
        metavar="LABEL...",
        help="Only these, with or without sub-.",
    ),
]
SessionLabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--session-label",
        "--session_label",
        metavar="LABEL...",
        help="Only these, with or without ses-.",
    ),
]


class CommandOfLabels(TyperCommand):
    """A command that takes ``--participant-label 01 02``, as BIDS apps do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, with a label option repeated for each of its labels."""
        return super().parse_args(ctx, _repeat_options(args))


def _repeat_options(arguments: list[str]) -> list[str]:
    """Turn ``--participant-label 01 02`` into two options with a value each."""
    repeated: list[str] = []
    option = None
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=False):
        if _takes_labels(argument):
            if not _is_label(following):
                raise typer.BadParameter("expected a label.", param_hint=argument)
            option = argument
            continue
        if not _is_label(argument):
            option = None
        elif option is not None:
            repeated.append(option)
        repeated.append(argument)
    return repeated


def _takes_labels(argument: str) -> bool:
    name = argument.lstrip("-").replace("_", "-")
    return argument.startswith("-") and name in _LABEL_OPTIONS


def _is_label(argument: str) -> bool:
    """Whether it is not an option, a level or a path, which end a list of labels."""
    is_level = argument in {"participant", "group"}
    return not (argument.startswith("-") or is_level or os.sep in argument)
