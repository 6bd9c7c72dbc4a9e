"""Names of files that hold weights."""

__all__ = ["INDEX_NAME", "STANDARD_NAMES", "WEIGHTS_SUFFIXES", "is_weights"]

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Of transformers; chosen where other files lie beside them.
STANDARD_NAMES = ("model.safetensors", "pytorch_model.bin")
INDEX_NAME = "model.safetensors.index.json"  # of shards


def is_weights(name: str) -> bool:
    """Whether a file name has the suffix of weights."""
    return name.lower().endswith(WEIGHTS_SUFFIXES)
