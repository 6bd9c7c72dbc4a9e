"""The FOMO26 interface: a scan of any contrast in, one float vector out.

python embed.py --input x.nii.gz --output y.npy
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from brainfeat import BrainFoundEmbedder, Checkpoint
from brainfeat.exceptions import BrainfeatError

CHECKPOINT = os.environ.get("BRAINFEAT_CHECKPOINT", "brainfound-tiny")


def embed(path: Path) -> np.ndarray:
    """Return the finite vector of one scan; its length depends on the checkpoint.

    A contrast that the file's name does not say, as in ``scan_T2w.nii.gz``, is taken
    for the first one that the encoder knows.
    """
    config = Checkpoint.load(CHECKPOINT).config
    modalities = config.encoder.modalities
    named = path.name.partition(".")[0].rpartition("_")[2]
    embedder = BrainFoundEmbedder(
        CHECKPOINT,
        pooling=config.pooling,
        modality=named if named in modalities else modalities[0],
        device="cpu",
        n_jobs=1,
    )
    return embedder.fit_transform([str(path)])[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, metavar="x.nii.gz")
    parser.add_argument("--output", type=Path, required=True, metavar="y.npy")
    arguments = parser.parse_args()
    try:
        vector = embed(arguments.input)
    except (BrainfeatError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Through a file: np.save would add a suffix to another name.
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.open("wb") as file:
        np.save(file, vector.astype(np.float32))
    return 0


if __name__ == "__main__":
    sys.exit(main())
