"""What ``brainfeat embed`` does once its options are read."""

__all__ = ["EncoderOptions", "embed_from_command_line"]

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from brainfeat import runs
from brainfeat.checkpoint import Checkpoint
from brainfeat.console import RunDisplay
from brainfeat.estimators._encoding import Pooling, SubjectEncoder
from brainfeat.exceptions import InputError
from brainfeat.manifest import Manifest, collect_rows
from brainfeat.runs import RunOptions, RunSummary
from brainfeat.table_formats import find_format


class EncoderOptions(NamedTuple):
    """The options of a command that say what embeds.

    Attributes
    ----------
    checkpoint : str
        Name, folder or address.
    pooling : {"mean", "cls", "cls+mean"}
        How tokens become one vector.
    device : str
        Where the encoder runs.
    batch_size : str
        A number, or auto.
    """

    checkpoint: str
    pooling: Pooling
    device: str
    batch_size: str

    def load(self) -> SubjectEncoder:
        """Load the encoder.

        Returns
        -------
        SubjectEncoder
            Ready to embed.
        """
        size = self.batch_size
        return SubjectEncoder(
            Checkpoint.load(self.checkpoint),
            pooling=self.pooling,
            device=self.device,
            batch_size=int(size) if size.isdecimal() else size,
        )


def embed_from_command_line(
    inputs: Sequence[str],
    output: Path,
    encoder_options: EncoderOptions,
    options: RunOptions,
    *,
    modalities: Sequence[str],
) -> RunSummary:
    """Embed scans into a table, and show how it goes.

    Parameters
    ----------
    inputs : sequence of str
        Images, globs, folders, manifests and BIDS folders.
    output : Path
        Table to create or to go on with.
    encoder_options : EncoderOptions
        What embeds.
    options : RunOptions
        How the run goes.
    modalities : sequence of str
        Modalities to use; none means all that the checkpoint knows.

    Returns
    -------
    RunSummary
        What became of the rows.

    Raises
    ------
    KeyboardInterrupt
        If the user or the system ends the run; it says what is kept.
    """
    find_format(output)
    encoder = encoder_options.load()
    manifest = collect_rows(inputs, modalities=encoder.modalities, wanted=modalities)
    _tell_problems(manifest, options)
    display = RunDisplay(len(manifest.rows))
    try:
        with display:
            return runs.embed_to_table(
                manifest.rows,
                output,
                encoder,
                provenance=runs.describe_encoder(encoder, encoder_options.checkpoint),
                options=options,
                problems=manifest.problems,
                on_event=display,
            )
    except KeyboardInterrupt as error:
        error.args = (
            f"interrupted: {display.n_done} of {len(manifest.rows)} are kept; "
            "the same command again goes on.",
        )
        raise


def _tell_problems(manifest: Manifest, options: RunOptions) -> None:
    for name in manifest.duplicates:
        _say(f"warning: {name}: given more than once, used once.")
    for problem in manifest.problems:
        if options.stop_on_first_error:
            raise InputError(str(problem))
        _say(f"failed: {problem}")


def _say(line: str) -> None:
    sys.stderr.write(f"{' '.join(line.split())}\n")
