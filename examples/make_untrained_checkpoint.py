"""Write an untrained ``brainfound-tiny``: the architecture with random weights.

    python examples/make_untrained_checkpoint.py brainfeat/weights/brainfound-tiny

It lets the software be installed, tested and timed before any pretraining, and is the
baseline that pretraining has to beat.
"""

# %%
import sys

from brainfeat.checkpoint import Checkpoint, CheckpointConfig
from brainfeat.models.config import EncoderConfig
from brainfeat.preprocessing import Preprocessor

CARD = """---
license: apache-2.0
tags: [brain, mri, feature-extraction, brainfeat]
---
# brainfound-tiny (untrained)

**These weights are random.** They are drawn with a fixed seed by
`examples/make_untrained_checkpoint.py`, and loading them warns. Features are random
projections of the image and of the position of its patches: enough to install, test and
time brainfeat, and a baseline that a trained encoder has to beat. Do not draw
conclusions about brains from them.

| | |
|---|---|
| network | DINOv2's: 12 blocks, width 192, 3 heads, 8-pixel patches, 5.5 M parameters |
| input | axial slabs of 4 slices at 2 mm, T1w, T2w and FLAIR, any of them missing |
| 3D | depthwise convolutions across slabs after three blocks (zero until trained) |
| data | none |
| measured results | none |
| licence | Apache-2.0 |

## Limits

- Not trained, neither on simulated nor on real scans.
- The examples and the demo of brainfeat run on **simulated** anatomies, deformations of
  one average brain: a figure measured there says nothing about patients.
- Adult heads on a 160 x 208 x 160 mm grid; other ages and species were not looked at.
- For research. **Not a medical device**; not for diagnosis or treatment.
"""

# %%
config = CheckpointConfig(
    encoder=EncoderConfig.preset("tiny"),
    preprocessing=Preprocessor().to_dict(),
    missing_modalities=True,
    trained=False,
    description="Random weights, to install, test and time brainfeat.",
)
checkpoint = Checkpoint.untrained(config, seed=0)
checkpoint.model_card = CARD

# %%
folder = sys.argv[1] if len(sys.argv) > 1 else "brainfound-tiny"
print("wrote", checkpoint.save(folder, dtype="float16"))
