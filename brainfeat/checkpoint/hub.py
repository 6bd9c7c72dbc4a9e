"""Fetch weights from the Hugging Face hub."""

__all__ = ["HubAddress", "cached_file", "download", "hub_origin"]

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

from brainfeat.checkpoint.weight_names import INDEX_NAME, STANDARD_NAMES, is_weights
from brainfeat.exceptions import CheckpointError, import_optional, list_names

_PREFIX = "hf-hub:"
_ADDRESS = re.compile(
    r"hf-hub:(?P<repository>[\w.-]+/[\w.-]+)(:(?P<path>[^@]+))?(@(?P<revision>\S+))?"
)
_CACHED = re.compile(r"models--(?P<organisation>.+?)--(?P<name>.+)")
_TEXTS = ("*.json", "README.md")
_LOGIN = "log in with 'hf auth login' or set HF_TOKEN"


class HubAddress(NamedTuple):
    """Repository, path in it and revision, of ``hf-hub:org/name:path@revision``."""

    repository: str
    path: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read an address, or raise a CheckpointError."""
        match = _ADDRESS.fullmatch(name)
        parts = PurePosixPath(match["path"] or "").parts if match else ()
        if match is None or ".." in parts or "/" in parts:
            raise CheckpointError(
                f"{name}: expected hf-hub:organisation/name, with :path/in/repository "
                "or @revision after it if needed."
            )
        return cls(match["repository"], match["path"], match["revision"])

    @property
    def page(self) -> str:
        """Address of the repository for people."""
        return f"https://huggingface.co/{self.repository}"


def download(name: str) -> Path:
    """Return the file or folder of ``"hf-hub:org/name[:path][@revision]"``.

    It is downloaded once. Without a path, the repository must hold one encoder;
    pickled weights are fetched only if there are no safetensors.
    """
    address = HubAddress.parse(name)
    message = f'{name} needs huggingface_hub: pip install "brainfeat[hub]"'
    hub = import_optional("huggingface_hub", message)
    with _one_line(name, address):
        path = _fetch_file(hub, address) if address.path else None
        return path or _fetch_from_list(hub, address, name)


def cached_file(name: str) -> Path | None:
    """Return a file that was downloaded from an address with a path before."""
    try:
        hub = import_optional("huggingface_hub", "")
    except ImportError:
        return None
    repository, path, revision = HubAddress.parse(name)
    found = path and hub.try_to_load_from_cache(repository, path, revision=revision)
    return Path(found) if isinstance(found, str | os.PathLike) else None


def hub_origin(path: Path) -> tuple[str, str]:
    """Return repository and commit of a file in the hub's cache, else empty texts."""
    parts = path.absolute().parts
    for folder, kind, commit in zip(parts, parts[1:], parts[2:], strict=False):
        match = _CACHED.fullmatch(folder)
        if match and kind == "snapshots":
            return f"{match['organisation']}/{match['name']}", commit
    return "", ""


def _fetch_file(hub: Any, address: HubAddress) -> Path | None:
    """Download the file at the path of an address, None if there is no such file."""
    repository, path, revision = address
    try:
        return Path(hub.hf_hub_download(repository, path, revision=revision))
    except Exception as error:
        kinds = _kinds(error)
        is_unreachable = "LocalEntryNotFoundError" in kinds
        if "EntryNotFoundError" in kinds and not is_unreachable:
            return None
        # Without a network, a folder may be there from before.
        if is_unreachable and not is_weights(path or ""):
            return None
        raise


def _fetch_from_list(hub: Any, address: HubAddress, name: str) -> Path:
    """Choose from the files of a repository, and download what belongs together."""
    files = _list_files(hub, address)
    root = address.path or ""
    inside = [file for file in files if file.startswith(f"{root}/")] if root else files
    # A file may lie in a folder that the address does not name.
    same_name = [file for file in files if PurePosixPath(file).name == root]
    chosen = _choose(same_name if len(same_name) == 1 else inside)
    if len(chosen) != 1:
        found = list_names(filter(is_weights, inside or files)) or "none"
        example = f"{_PREFIX}{address.repository}:{chosen[0]}" if chosen else ""
        mend = f"; name one of them, as in {example}" if chosen else ""
        raise CheckpointError(f"{name}: expected one weights file, got {found}{mend}.")
    return _fetch_with_texts(hub, address, chosen[0])


def _fetch_with_texts(hub: Any, address: HubAddress, file: str) -> Path:
    """Download weights with the configurations beside them; return file or folder."""
    folder = PurePosixPath(file).parent
    within = "" if str(folder) == "." else f"{folder}/"
    is_sharded = file.endswith(INDEX_NAME)
    weights = f"{within}*.safetensors" if is_sharded else file
    patterns = [weights, *(within + text for text in _TEXTS)]
    snapshot = hub.snapshot_download(
        address.repository, revision=address.revision, allow_patterns=patterns
    )
    local = Path(snapshot, folder)
    # A folder has the configuration as well, but must not hold other weights.
    name = PurePosixPath(file).name
    others = [f.name for f in local.iterdir() if is_weights(f.name) and f.name != name]
    is_clear = name in (INDEX_NAME, *STANDARD_NAMES) or not others
    is_asked_for = is_weights(address.path or "")
    has_config = (local / "config.json").is_file()
    return local if has_config and is_clear and not is_asked_for else local / name


def _choose(files: Sequence[str]) -> list[str]:
    """Return the weights that a list of files is about, several if it is unclear."""
    depth = min((file.count("/") for file in files), default=0)
    top = [file for file in files if file.count("/") == depth]
    for group in (top, files):
        for name in (*STANDARD_NAMES[:1], INDEX_NAME):
            standard = [file for file in group if PurePosixPath(file).name == name]
            if len(standard) == 1:
                return standard
        for is_safe in (True, False):
            found = [
                file
                for file in group
                if is_weights(file) and file.endswith(".safetensors") is is_safe
            ]
            named = [f for f in found if PurePosixPath(f).name in STANDARD_NAMES]
            if found:
                return named if len(named) == 1 else found
    return []


def _list_files(hub: Any, address: HubAddress) -> list[str]:
    """Return the files of a repository, or those that were downloaded if offline."""
    repository, _, revision = address
    try:
        return sorted(hub.HfApi().list_repo_files(repository, revision=revision))
    except Exception:
        try:
            options = {"revision": revision, "local_files_only": True}
            folder = hub.snapshot_download(repository, **options, allow_patterns=_TEXTS)
        except Exception:
            folder = None
        if folder is None:
            raise
        found = Path(folder).rglob("*")
        return sorted(p.relative_to(folder).as_posix() for p in found if p.is_file())


@contextmanager
def _one_line(name: str, address: HubAddress) -> Iterator[None]:
    """Turn an error of the hub or the network into one line with the mend."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # its network library raises many kinds
        raise CheckpointError(f"{name}: {_explain(error, address)}") from error


def _explain(error: Exception, address: HubAddress) -> str:
    kinds = _kinds(error)
    if "GatedRepoError" in kinds:
        return (
            f"the authors give access on request: ask for it on {address.page}, then "
            f"{_LOGIN}, and run this again."
        )
    if "RepositoryNotFoundError" in kinds:
        return f"no such repository, or a private one; check the name, or {_LOGIN}."
    if "RevisionNotFoundError" in kinds:
        return f"{address.repository} has no revision {address.revision}."
    if kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError"}:
        cause = "HF_HUB_OFFLINE is set" if _is_offline() else "check the network"
        return f"not downloaded before, and the hub cannot be reached ({cause})."
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return f"cannot be downloaded: {reason[0]}"


def _kinds(error: BaseException) -> set[str]:
    """Return the names of an error's classes, which moved between versions."""
    return {kind.__name__ for kind in type(error).__mro__}


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() not in {"", "0", "false", "no"}
