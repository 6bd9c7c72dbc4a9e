import numpy as np
from scipy import ndimage

from brainfeat.preprocessing import edge_net
from brainfeat.preprocessing.blocks import to_blocks
from brainfeat.preprocessing.edge_net import (
    EdgeInput,
    edge_band,
    halve_grid,
    refine_edge,
)
from brainfeat.volume import Geometry


def edge_of_a_ball(rng, shape=(9, 11, 10)):
    """A ball off the middle, that touches one side of the box."""
    places = np.indices(shape) - np.array([2.0, 6.0, 4.0]).reshape(3, 1, 1, 1)
    fraction = np.clip(3.5 - np.linalg.norm(places, axis=0), 0, 1).astype(np.float32)
    channels = rng.normal(size=(*shape, 10)).astype(np.float32)
    grid = Geometry(shape, np.diag([4.0, 4.0, 4.0, 1.0]))
    return EdgeInput(grid, channels, fraction)


def random_weights(rng):
    weights = {"out.weight": rng.normal(size=(8, 5)), "out.bias": rng.normal(size=8)}
    for layer, (n_in, n_out) in enumerate([(10, 4), (4, 6), (6, 5)]):
        weights[f"{layer}.weight"] = 0.1 * rng.normal(size=(n_out, n_in, 3, 3, 3))
        weights[f"{layer}.bias"] = rng.normal(size=n_out)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def convolve(data, weight, bias):
    options = {"mode": "constant", "cval": 0.0}
    maps = [
        sum(
            ndimage.correlate(data[..., i], kernel, **options)
            for i, kernel in enumerate(kernels)
        )
        for kernels in weight
    ]
    result = np.stack(maps, axis=-1) + bias
    return np.maximum(result, 0.1 * result)


def test_edge_equals_convolutions_of_the_whole_box(rng, monkeypatch):
    edge, weights = edge_of_a_ball(rng), random_weights(rng)
    monkeypatch.setattr(edge_net, "_load_weights", lambda: weights)
    monkeypatch.setattr(edge_net, "_CHUNK", 37)
    data = edge.channels
    for layer in range(3):
        data = convolve(data, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
    scores = data @ weights["out.weight"].T + weights["out.bias"]
    expected = 1.0 / (1.0 + np.exp(-scores - edge.channels[..., 8:9]))
    band = edge_band(edge.fraction)
    refined = to_blocks(refine_edge(edge).data)
    assert band.any()
    np.testing.assert_allclose(refined[band], expected[band], atol=1e-5)
    kept = np.repeat(edge.fraction[..., None], 8, axis=3)
    np.testing.assert_array_equal(refined[~band], kept[~band])


def test_eighths_of_a_voxel_lie_around_its_centre():
    affine = np.array([[4.0, 0, 0, 7], [0, 4, 0, -5], [0, 0, 4, 3], [0, 0, 0, 1]])
    grid = Geometry((2, 3, 4), affine)
    half = halve_grid(grid)
    points = np.moveaxis(np.indices(half.shape), 0, -1) @ half.affine[:3, :3].T
    centres = np.stack(
        [to_blocks(axis).mean(axis=-1) for axis in np.moveaxis(points, -1, 0)], axis=-1
    )
    expected = np.moveaxis(np.indices(grid.shape), 0, -1) @ affine[:3, :3].T
    shift = affine[:3, 3] - half.affine[:3, 3]
    np.testing.assert_allclose(centres, expected + shift)
