"""Names of parameters: prefixes, families, and the likeness of a file to a layout."""

__all__ = ["Renaming", "family", "likeness", "split_encoder", "without_wrappers"]

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from types import MappingProxyType

from torch import Tensor

from brainfeat.exceptions import CheckpointError, list_names

# Parts of a training checkpoint outside the encoder.
_HEADS = re.compile(r"^(student\w*\.|(\w+\.)*(\w*head|classifier|\w+_loss)\.)")
# Parts of names that torch.compile and sharded training add.
_WRAPPERS = re.compile(
    r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# transformers 5 keeps the blocks of DINOv3 one level deeper.
_DEEPER = re.compile(r"\bmodel\.(?=layer\.\d)")
# Sharded training numbers chunks of blocks; the block keeps its index.
_CHUNKS = re.compile(r"\bblocks\.\d+\.(\d+\.)")
_KIND = re.compile(r"(\.(weight|bias|running_mean|running_var|num_batches_tracked))?$")
_INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)")
# Averages of a network over its training, which are better than the network.
_AVERAGES = ("teacher", "target_encoder")
# A copy of the encoder has nearly all of its names; a decoder has fewer.
_COPY = 0.8


class Renaming:
    """Our names of parameters for those of a library."""

    def __init__(self, families: Mapping[str, str | None]) -> None:
        """Take our families of stems for theirs, None for those of no use."""
        self._ours = families
        self._theirs = {ours: theirs for theirs, ours in families.items() if ours}

    def ours(self, name: str) -> str | None:
        """Return our name of a parameter, None for one that is unknown or of no use."""
        return _translate(name, self._ours)

    def theirs(self, name: str) -> str:
        """Return their name of a parameter of ours."""
        return _translate(name, self._theirs) or name

    def is_unused(self, name: str) -> bool:
        """Whether they know a parameter that is of no use here."""
        stem = family(name)
        return stem in self._ours and self._ours[stem] is None


def family(name: str) -> str:
    """Return the name of a parameter without its kind and indices.

    >>> family("blocks.3.mlp.experts.12.fc1.weight")
    'blocks.*.mlp.experts.*.fc1'
    """
    return _INDEX.sub("*", _KIND.sub("", name, count=1))


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove from names what wrappers of torch and sharded training add."""
    plain = ((_WRAPPERS.sub("", name), value) for name, value in state.items())
    return {
        _DEEPER.sub("", _CHUNKS.sub(r"blocks.\1", name)): value for name, value in plain
    }


def likeness(
    state: Mapping[str, Tensor],
    required: Set[str],
    optional: Set[str] = frozenset(),
    fits: Mapping[str, Callable[[tuple[int, ...]], bool]] = MappingProxyType({}),
) -> float:
    """Return which fraction of the stems, of a file and of a layout, are in both.

    Optional stems count where they are found. `fits` are conditions on shapes, without
    which a stem does not count as found.
    """
    root = _best_roots(_find_roots(state, required | optional))[0]
    known, others = set(), set()
    for name, value in state.items():
        stem = family(name.removeprefix(root))
        is_known = name.startswith(root) and stem in required | optional
        if is_known and (stem not in fits or fits[stem](tuple(value.shape))):
            known.add(stem)
        elif not _HEADS.match(name.removeprefix(root)):
            others.add(stem)
    return len(known) / len(known | required | others)


def split_encoder(
    state: Mapping[str, Tensor], stems: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the encoder's tensors, and names of neither an encoder nor a head.

    Prefixes are removed; `stems` are the families that a layout knows.
    """
    roots = _find_roots(state, stems)
    best = _best_roots(roots)
    if len(best) > 1:
        prefixes = list_names(map(repr, best))
        raise CheckpointError(f"expected one encoder, got prefixes {prefixes}.")
    root = best[0]
    # Such as the copy of the student that Lightning modules keep.
    others = _copies(roots) - {root, ""} if _is_average(root) else set()
    inside, outside = {}, []
    for name, value in state.items():
        short = name.removeprefix(root)
        if name.startswith(root) and not _HEADS.match(short):
            inside[short] = value
        elif not _HEADS.match(name) and not name.startswith((*others,)):
            outside.append(name)
    return inside, outside


def _translate(name: str, families: Mapping[str, str | None]) -> str | None:
    stem = _KIND.sub("", name, count=1)
    new = families.get(stem) or families.get(family(name))
    if new is None:
        return None
    indices = iter(_INDEX.findall(stem))
    return re.sub(r"\*", lambda _: next(indices), new) + name[len(stem) :]


def _find_roots(names: Iterable[str], stems: Collection[str]) -> dict[str, set[str]]:
    """Return what stands before known stems, and which stems follow it."""
    roots = defaultdict(set)
    for name in names:
        # The longest known end of a name.
        for start in [0, *(match.end() for match in re.finditer(r"\.", name))]:
            if family(name[start:]) in stems:
                roots[name[:start]].add(family(name[start:]))
                break
    return roots


def _best_roots(roots: Mapping[str, set[str]]) -> list[str]:
    """Return the prefix of the encoder, several if none is better, ``""`` if none."""
    copies = _copies(roots)
    copies = {root for root in copies if _is_average(root)} or copies
    most = max((len(roots[root]) for root in copies), default=0)
    return sorted(root for root in copies if len(roots[root]) == most) or [""]


def _copies(roots: Mapping[str, set[str]]) -> set[str]:
    most = max(map(len, roots.values()), default=0)
    return {root for root, found in roots.items() if len(found) >= _COPY * most}


def _is_average(root: str) -> bool:
    return any(word in root for word in _AVERAGES)
