"""Segment scans in their own space, after two labelled ones."""

# %%
# Three simulated subjects stand in for your own scans: a T1w image and a label map
# each. Any integers will do as labels, on any grid that lies with the image.
import nibabel as nib
import numpy as np
from nilearn.plotting import plot_roi

from brainfeat import SegmentationEstimator, simulate_cohort

cohort = simulate_cohort("cohort", n_subjects=3, random_state=7)
scans, label_maps = cohort["T1w"].tolist(), cohort["dseg"].tolist()

# %%
# The estimator trains a light decoder on the tokens of the pretrained encoder. The
# default number of steps takes minutes on a CPU; these few only show how it goes.
model = SegmentationEstimator(n_steps=4, random_state=0, verbose=1)
model.fit(scans[:2], label_maps[:2])
print("classes:", model.classes_)

# %%
# Label maps come back on the grid of the image, whatever its orientation.
(segmented,) = model.predict(scans[2:])
image = nib.load(scans[2])
print(segmented.shape == image.shape, np.allclose(segmented.affine, image.affine))

# %%
# Dice of each class; `model.score` is the mean over classes and subjects.
print(model.score_table(scans[2:], label_maps[2:]).round(2).to_string())

# %%
# A model is a folder of safetensors and JSON, also for `brainfeat segment predict`.
model.save("tissue-model")
again = SegmentationEstimator.load("tissue-model")
print(again.modalities_, again.classes_)

# %%
# The labels on their image: as they lie in the scanner, nilearn draws them.
display = plot_roi(segmented, bg_img=image, cmap="tab10", alpha=0.6, colorbar=False)
display.savefig("segmented.png")
