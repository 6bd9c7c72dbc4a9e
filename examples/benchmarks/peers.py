"""Compare public encoders with the outputs and the speed of their authors' code.

FOLDER has `keys/NAME.tsv`, the name, shape and type of each tensor of a released file,
and `references.npz`, outputs of the authors' code at weights and inputs that a rule
draws. Prints the largest relative error of each and seconds a volume. Where MONAI has
the class that the authors use, it also prints the seconds of one core from the file of
an aligned, stripped scan to the feature, of this library and of MONAI's transforms and
class, measured in turn. MONAI is part of the test extra.

    python examples/benchmarks/peers.py FOLDER
    python examples/benchmarks/peers.py FOLDER --only brainiac_full --repeats 5
"""

import argparse
import tempfile
import time
import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from peer_routes import SHAPES, Route, monai_route, our_route, write_scan
from torch import Tensor

from brainfeat import Checkpoint
from brainfeat.models.protocol import Encoder, EncoderOutput
from brainfeat.models.volume_encoder import VolumeEncoder

# How the released files nest their weights.
NESTING = {
    "brainiac": "state_dict",
    "3dino": "teacher",
    "neuro_simclr": "model_state_dict",
    "anatcl": "model",
}
PAIR = ("T1w", "FLAIR")  # modalities of a reference with two volumes
STEPS = (1, 9, 10, 24, 32, 40, 64)  # between the tokens that references keep


def draw_tensor(key: str, shape: tuple[int, ...], kind: str) -> Tensor:
    """Draw a tensor of the state dict from its name."""
    if kind.startswith("int"):
        return torch.zeros(shape, dtype=torch.int64)
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    z = generator.standard_normal(shape, dtype=np.float32)
    if key.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif z.ndim == 1:
        z = 0.1 * z + key.endswith((".weight", ".gamma"))
    elif z.ndim < 4:
        z = 0.02 * z
    else:
        z = z / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(z.astype(np.float32))


def draw_state(keys: Path) -> dict[str, Tensor]:
    """Draw the tensors of a list of keys."""
    state = {}
    for line in keys.read_text().splitlines():
        key, shape, kind = line.split("\t")
        sizes = tuple(int(size) for size in shape.split("x") if size)
        state[key] = draw_tensor(key, sizes, kind)
    return state


def load(name: str, state: Mapping[str, Tensor]) -> Checkpoint:
    """Load weights from a file that is nested as the released one."""
    peer = name.rpartition("_")[0]
    content = {NESTING[peer]: state} if peer in NESTING else state
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.pth"
        torch.save(content, path)
        return Checkpoint.load(path)


def draw_input(name: str, shape: tuple[int, ...]) -> Tensor:
    """Draw the input of a reference."""
    generator = np.random.default_rng(7)
    draw = generator.random if "jepa" in name else generator.standard_normal
    return torch.from_numpy(draw(shape, dtype=np.float32))


def encode(encoder: Encoder, volumes: Tensor) -> EncoderOutput:
    """Encode the volumes (n, 1, I, J, K) of a subject, whose other modalities lack."""
    known = encoder.config.modalities
    given = PAIR if len(volumes) == len(PAIR) else known[:1]
    inputs = torch.full((1, len(known), *volumes.shape[2:]), torch.nan)
    for modality, volume in zip(given, volumes[:, 0], strict=True):
        inputs[0, known.index(modality)] = volume
    present = torch.tensor([[modality in given for modality in known]])
    if not isinstance(encoder, VolumeEncoder):
        output = encoder(inputs, present=present)
        return EncoderOutput(None, output.patch_tokens.flatten(1, 3))
    cls_tokens, patches = encoder.forward_streams(inputs, present=present)
    cls_token = None if cls_tokens is None else cls_tokens[:, 0]
    return EncoderOutput(cls_token, patches[present].flatten(0, 3)[None])


def measure(
    name: str, encoder: Encoder, reference: dict[str, Tensor]
) -> tuple[dict[str, float], float]:
    """Return the largest relative error of each output, and seconds a volume."""
    inputs = draw_input(name, tuple(reference.pop("input_shape").tolist()))
    places = reference.pop("coordinates", None)
    start = time.perf_counter()
    if places is not None and isinstance(encoder, VolumeEncoder):
        output = encoder.forward_patches(inputs, places)
    else:
        output = encode(encoder, inputs)
    seconds = time.perf_counter() - start
    errors = {}
    for what, expected in reference.items():
        difference = _select(output, what, expected) - expected
        errors[what] = float(difference.abs().max() / expected.abs().max())
    return errors, seconds


def _select(output: EncoderOutput, what: str, expected: Tensor) -> Tensor:
    if what == "cls":
        return output.require_cls_token()
    if what == "feature":
        return output.patch_tokens.mean(1)
    n_tokens, n_kept = output.patch_tokens.shape[-2], expected.shape[-2]
    step = next(step for step in STEPS if -(-n_tokens // step) == n_kept)
    return output.patch_tokens[..., ::step, :]


def race(ours: Route, theirs: Route, repeats: int) -> str:
    """Time two routes in turn, and compare their features."""
    seconds: dict[Route, list[float]] = {ours: [], theirs: []}
    features = {}
    for _ in range(repeats):
        for route, measured in seconds.items():
            start = time.process_time()
            features[route] = route()
            measured.append(time.process_time() - start)
    fast, slow = min(seconds[ours]), min(seconds[theirs])
    difference = (features[ours] - features[theirs]).abs().max()
    error = float(difference / features[theirs].abs().max())
    return (
        f"file to feature on one core: {fast:.2f} s, MONAI {slow:.2f} s, "
        f"ratio {fast / slow:.2f}, features differ by {error:.0e}"
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", help="names of references")
    parser.add_argument("--repeats", type=int, default=3, help="of timed routes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.folder / "references.npz") as arrays:
        references: dict[str, dict[str, Tensor]] = {}
        for key in arrays:
            name, _, what = key.partition("/")
            references.setdefault(name, {})[what] = torch.from_numpy(arrays[key])
    for name in options.only or sorted(references):
        keys = name if "x" not in name else name.rpartition("_")[0]
        state = draw_state(options.folder / "keys" / f"{keys}.tsv")
        checkpoint = load(keys, state)
        encoder = checkpoint.build_encoder()
        errors, seconds = measure(name, encoder, references[name])
        listed = ", ".join(f"{what} {error:.1e}" for what, error in errors.items())
        print(f"{name}: {listed}; {seconds:.2f} s a volume", flush=True)
        if name in SHAPES and find_spec("monai"):
            with tempfile.TemporaryDirectory() as folder:
                scan = write_scan(name, Path(folder))
                routes = our_route(checkpoint, scan), monai_route(name, state, scan)
                print(f"  {race(*routes, options.repeats)}", flush=True)


if __name__ == "__main__":
    main()
