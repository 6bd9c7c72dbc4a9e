"""What ``brainfeat bids`` does with participants once its options are read."""

__all__ = ["embed_participants"]

from pathlib import Path

from brainfeat.checkpoint.hub import absolute_source
from brainfeat.cli.console import show_run, tell_problems
from brainfeat.cli.embed import EncoderOptions
from brainfeat.subjects.bids.filter import BidsSelection, read_filters
from brainfeat.subjects.manifest import collect_bids
from brainfeat.tables import runs
from brainfeat.tables.derivatives import DerivativesFolder
from brainfeat.tables.provenance import describe_encoder
from brainfeat.tables.runs import RunOptions, RunSummary


def embed_participants(
    source: Path,
    output: Path,
    encoder_options: EncoderOptions,
    options: RunOptions,
    *,
    selection: BidsSelection,
    filter_file: Path | None = None,
    modalities: tuple[str, ...] = (),
) -> RunSummary:
    """Embed a BIDS dataset into a folder of derivatives.

    Parameters
    ----------
    source : Path
        Raw dataset; never written to.
    output : Path
        Folder of derivatives.
    encoder_options : EncoderOptions
        What embeds.
    options : RunOptions
        How the run goes.
    selection : BidsSelection
        Participants and sessions to embed.
    filter_file : Path, optional
        Filters of images; for `read_filters`.
    modalities : tuple of str
        Modalities to use; none means all that the checkpoint knows.

    Returns
    -------
    RunSummary
        What became of the sessions.
    """
    encoder = encoder_options.load()
    if filter_file is not None:
        filters = read_filters(filter_file, encoder.modalities)
        selection = BidsSelection(
            participants=selection.participants,
            sessions=selection.sessions,
            filters=filters,
        )
    manifest = collect_bids(
        source, selection, modalities=encoder.modalities, wanted=modalities
    )
    provenance = describe_encoder(encoder, absolute_source(encoder_options.checkpoint))
    with DerivativesFolder(
        output, source, provenance, overwrite=options.overwrite
    ) as folder:
        tell_problems(manifest)
        with (
            show_run(
                len(manifest.rows),
                kept="embedded already",
                goes_on=not options.overwrite,
            ) as display,
            encoder_options.distribute(encoder, options.n_jobs) as distribution,
        ):
            summary = runs.embed_rows(
                manifest.rows,
                folder,
                encoder,
                options=options,
                problems=manifest.problems,
                on_event=display,
                distribution=distribution,
            )
    return summary._replace(output=output)
