"""The FOMO26 interface: a scan of any contrast in, one float vector out.

python embed.py --input x.nii.gz --output y.npy
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from brainfeat import BrainFoundEmbedder, Checkpoint, Preprocessor, read_volume
from brainfeat.exceptions import BrainfeatError

CHECKPOINT = os.environ.get("BRAINFEAT_CHECKPOINT", "brainfound-tiny")


def find_modality(path: Path) -> str:
    """Return the modality of the encoder whose model of a head the scan fits best."""
    checkpoint = Checkpoint.load(CHECKPOINT)
    modalities = checkpoint.config.encoder.modalities
    if len(modalities) == 1:
        return modalities[0]
    preprocessor = Preprocessor.from_dict(checkpoint.config.preprocessing)
    volume = read_volume(path)
    similarity = {
        name: preprocessor.apply({name: volume}, modalities).quality.similarity
        for name in modalities
    }
    return max(similarity, key=lambda name: np.nan_to_num(similarity[name], nan=-1.0))


def embed(path: Path) -> np.ndarray:
    """Return the finite vector of one scan; its length depends on the checkpoint."""
    embedder = BrainFoundEmbedder(
        CHECKPOINT, modality=find_modality(path), device="cpu", n_jobs=1
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
