"""Register the T2w scan of one person to the T1w scan of another."""

# %%
# Two simulated people with different anatomies, poses and scanners.
import dataclasses

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np

from brainfeat import RegistrationEstimator, simulate_cohort

modalities = ["T1w", "T2w", "FLAIR"]
cohort = simulate_cohort("contrasts", 2, modalities=modalities, random_state=2)
fixed, moving = cohort.iloc[0], cohort.iloc[1]

# %%
# `fit` aligns and encodes the fixed scan, `register` the moving one. Voxels of 3 mm and
# 20 steps are a demonstration: the defaults, 2 mm and 50, take longer and fit better.
model = RegistrationEstimator(spacing=3.0, n_steps=20, modality="T1w")
model.fit(fixed["T1w"])
transform = model.register({"T2w": moving["T2w"]})
# "moved_to_fixed.nii.gz", with a text file of the affine: ANTs and SimpleITK read them.
transform.save("moved_to_fixed.nii.gz")

# %%
# The same transform brings label maps, here the true structures of the moving person.
# Without its field it is the affine registration.
affine = dataclasses.replace(
    transform, field=np.zeros_like(transform.field), inverse_field=None
)
target = np.asarray(nib.load(fixed["dseg"]).dataobj)
for name, one in (("affine", affine), ("deformable", transform)):
    labels = np.asarray(one.apply_labels(moving["dseg"]).dataobj)
    pairs = [(labels == code, target == code) for code in np.unique(target)[1:]]
    overlaps = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]
    print(f"{name}: Dice of {len(overlaps)} structures {np.mean(overlaps):.2f}")


# %%
# An axial slice of each, left is left; tiles of both scans show whether borders meet.
def axial(image: nib.Nifti1Image) -> np.ndarray:
    image = nib.as_closest_canonical(image)
    voxels = image.get_fdata(dtype=np.float32)
    plane = voxels[:, :, int(0.55 * voxels.shape[2])].T
    return plane / np.percentile(plane, 99)


scan = nib.load(fixed["T1w"])
planes = [axial(scan), *(axial(t.apply(moving["T2w"])) for t in (affine, transform))]
rows, columns = np.indices(planes[0].shape) // 24
tiles = np.where((rows + columns) % 2, planes[0], planes[2])

# %%
# The grid: where points of the fixed scan lie in the moving one, before the affine.
grid = nib.as_closest_canonical(scan)
ij = np.stack(np.meshgrid(*map(np.arange, planes[0].shape[::-1])), axis=-1)[::6, ::6]
k = np.full((*ij.shape[:2], 1), int(0.55 * grid.shape[2]))
points = nib.affines.apply_affine(grid.affine, np.concatenate([ij, k], axis=-1))
there = transform.map_points(points.reshape(-1, 3).T).T
back = np.linalg.inv(grid.affine) @ np.linalg.inv(transform.affine)
x, y, _ = nib.affines.apply_affine(back, there).reshape(points.shape).transpose(2, 0, 1)

titles = ["T1w, fixed", "T2w, affine", "T2w, deformed", "tiles of both", "field"]
figure, panels = plt.subplots(1, 5, figsize=(13, 3.1), layout="constrained")
for panel, plane, title in zip(
    panels, [*planes, tiles, planes[0]], titles, strict=True
):
    panel.imshow(plane, cmap="gray", origin="lower", vmax=1)
    panel.set(title=title, xticks=[], yticks=[])
panels[-1].plot(x, y, "C1", x.T, y.T, "C1", linewidth=0.5)
figure.savefig("registration.png")
