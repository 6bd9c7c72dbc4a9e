"""Downloads from a hub on this machine, over HTTP."""

import hashlib
import io
import json
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import save

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.hub import HubAddress, cached_file, download, hub_origin
from brainfeat.checkpoint.known import KNOWN_ENCODERS
from brainfeat.checkpoint.locate import (
    absolute_source,
    find_downloaded,
    locate_checkpoint,
)
from brainfeat.checkpoint.origin import Origin, check_sha256
from brainfeat.checkpoint.weight_files import file_sha256, read_tensors
from brainfeat.exceptions import CheckpointError, MissingDependencyError

COMMITS = {"main": "1" * 40, "v2": "2" * 40}
SAFE = save({"a": torch.arange(3.0)})


def pickled(**tensors):
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


class FakeHub(ThreadingHTTPServer):
    """Repositories of files; a gated one lists its files, but gives none."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), partial(_Handler))
        self.repositories, self.gated, self.requests = {}, set(), []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repository, *, gated=False, **files):
        self.repositories[repository] = files.get("files", files)
        self.gated |= {repository} if gated else set()

    @property
    def fetched(self):
        return [
            path.rpartition("/")[2]
            for verb, path in self.requests
            if verb == "GET" and "/resolve/" in path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append((self.command, path))
        is_api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        repository, rest = "/".join(parts[:2]), parts[2:]
        files = self.server.repositories.get(repository)
        if files is None:
            return self._send(401, code="RepoNotFound")
        commit = rest[1] if len(rest) > 1 else "main"
        commit = COMMITS.get(commit, commit if commit in COMMITS.values() else None)
        if commit is None:
            return self._send(404, code="RevisionNotFound")
        if is_api:
            return self._list(repository, files, commit, is_tree="tree" in rest[:1])
        if repository in self.server.gated:
            return self._send(403, code="GatedRepo")
        return self._file(files, "/".join(rest[2:]), commit)

    def _list(self, repository, files, commit, *, is_tree):
        names = [{"rfilename": name} for name in files]
        body = {"id": repository, "modelId": repository, "sha": commit}
        body |= {"siblings": names, "private": False, "tags": [], "downloads": 0}
        if is_tree:
            body = [
                {"type": "file", "path": n, "size": len(c), "oid": "0" * 40}
                for n, c in files.items()
            ]
        self._send(200, json.dumps(body).encode())

    def _file(self, files, name, commit):
        if name not in files:
            return self._send(404, code="EntryNotFound", commit=commit)
        digest = hashlib.sha256(files[name]).hexdigest()
        return self._send(200, files[name], commit=commit, digest=digest)

    def _send(self, status, body=b"", *, code=None, commit=None, digest=None):
        self.send_response(status)
        headers = {"Content-Length": len(body), "X-Repo-Commit": commit}
        headers |= {"X-Error-Code": code, "ETag": digest and f'"{digest}"'}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    server = FakeHub()
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("BRAINFEAT_HOME", str(tmp_path / "home"))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_file_in_a_folder_and_revision_is_fetched_alone_and_once(hub):
    hub.add("lab/brain", **{"deep/a.ckpt": pickled(a=torch.ones(2)), "b.pth": b"other"})
    path = download("hf-hub:lab/brain:deep/a.ckpt@v2")
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))
    assert hub_origin(path) == ("lab/brain", COMMITS["v2"])
    assert path == download("hf-hub:lab/brain:deep/a.ckpt@v2")
    assert path == cached_file("hf-hub:lab/brain:deep/a.ckpt@v2")
    assert hub.fetched == ["a.ckpt"]


def test_file_is_found_by_its_name_alone(hub):
    hub.add("lab/brain", **{"deep/a.ckpt": pickled(a=torch.ones(2)), "b.pth": b"other"})
    assert download("hf-hub:lab/brain:a.ckpt").name == "a.ckpt"
    assert "b.pth" not in hub.fetched


def test_folder_in_a_repository_comes_with_its_configuration(hub):
    files = {"x/config.json": b"{}", "x/model.safetensors": SAFE, "x/b.bin": b"other"}
    hub.add("lab/brain", **files, **{"config.json": b"[]"})
    folder = download("hf-hub:lab/brain:x")
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    ("names", "fetched"),
    [
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin"], "pytorch_model.bin"),
        (["deep/er/last.tar", "notes.txt"], "last.tar"),
        (["a.pth", "deep/b.safetensors"], "a.pth"),
        (["deep/a.pth", "deep/b.safetensors"], "b.safetensors"),
        (["model.safetensors", "task/model.safetensors"], "model.safetensors"),
    ],
)
def test_the_weights_of_a_repository_are_chosen(names, fetched, hub):
    hub.add("lab/brain", **dict.fromkeys(names, SAFE))
    path = download("hf-hub:lab/brain")
    assert hub.fetched == [fetched]
    assert read_tensors(path).keys() == {"a"}


def test_shards_are_fetched_together(hub):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    shards = {
        "model-1.safetensors": SAFE,
        "model-2.safetensors": save({"b": torch.ones(2)}),
    }
    hub.add(
        "lab/brain",
        **shards,
        **{"model.safetensors.index.json": json.dumps(index).encode(), "c.bin": b""},
    )
    assert read_tensors(download("hf-hub:lab/brain")).keys() == {"a", "b"}
    assert "c.bin" not in hub.fetched


def test_several_weights_are_listed_and_none_is_fetched(hub):
    hub.add("lab/brain", **{"fold0.pth": SAFE, "fold1.pth": SAFE})
    with pytest.raises(CheckpointError) as error:
        download("hf-hub:lab/brain")
    assert str(error.value) == (
        "hf-hub:lab/brain: expected one weights file, got fold0.pth, fold1.pth; name "
        "one of them, as in hf-hub:lab/brain:fold0.pth."
    )
    assert not hub.fetched


def test_repository_without_weights_is_reported(hub):
    hub.add("lab/brain", **{"config.json": b"{}"})
    with pytest.raises(CheckpointError, match=r"expected one weights file, got none\."):
        download("hf-hub:lab/brain")


def test_missing_path_lists_the_weights(hub):
    hub.add("lab/brain", **{"a.pth": SAFE, "deep/b.ckpt": SAFE})
    with pytest.raises(CheckpointError, match=r"got a\.pth, deep/b\.ckpt\.$"):
        download("hf-hub:lab/brain:c.pth")


def test_gated_repository_says_where_to_ask(hub):
    hub.add("lab/brain", gated=True, **{"a.pth": SAFE})
    expected = (
        "the authors give access on request: ask for it on "
        "https://huggingface.co/lab/brain, then log in with 'hf auth login' or set "
        "HF_TOKEN, and run this again."
    )
    for name in ("hf-hub:lab/brain", "hf-hub:lab/brain:a.pth"):
        with pytest.raises(CheckpointError) as error:
            download(name)
        assert str(error.value) == f"{name}: {expected}"


def test_unknown_repository_or_revision_is_one_line(hub):
    hub.add("lab/brain", **{"a.pth": SAFE})
    for name, reason in {
        "hf-hub:lab/bran": "no such repository, or a private one; check the name, or",
        "hf-hub:lab/brain@v9": "lab/brain has no revision v9.",
        "hf-hub:lab/brain:a.pth@v9": "lab/brain has no revision v9.",
    }.items():
        with pytest.raises(CheckpointError) as error:
            download(name)
        assert str(error.value).startswith(f"{name}: {reason}")
        assert "\n" not in str(error.value)


def test_what_was_downloaded_is_used_without_a_network(hub, monkeypatch):
    hub.add("lab/brain", **{"a.pth": pickled(a=torch.ones(2)), "b.txt": b"notes"})
    hub.add("lab/other", **{"a.pth": SAFE})
    names = ["hf-hub:lab/brain", "hf-hub:lab/brain:a.pth"]
    before = [download(name) for name in names]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [download(name) for name in names] == before
    with pytest.raises(CheckpointError, match=r"not downloaded .*HF_HUB_OFFLINE is"):
        download("hf-hub:lab/other:a.pth")


def test_damaged_download_is_reported(hub):
    hub.add("lab/brain", **{"a.pth": SAFE})
    path = download("hf-hub:lab/brain:a.pth")
    check_sha256(path, file_sha256(path), None)
    path.resolve().write_bytes(SAFE[:-1])
    with pytest.raises(CheckpointError, match=r"expected the SHA-256 .* fetch it"):
        check_sha256(path, file_sha256(path), None)


@pytest.mark.parametrize(
    "name",
    [
        *("hf-hub:", "hf-hub:brain", "hf-hub:a/b/c", "hf-hub:a/b@", "hf-hub:a/b:"),
        *("hf-hub:a/b:../c.pth", "hf-hub:a/b:/etc/c.pth"),
    ],
)
def test_malformed_hub_name_is_rejected(name):
    with pytest.raises(CheckpointError, match="expected hf-hub:organisation/name"):
        HubAddress.parse(name)


def test_missing_hub_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setenv("BRAINFEAT_HOME", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r'pip install "brainfeat\[hub\]"'):
        download("hf-hub:lab/brain")
    with pytest.raises(MissingDependencyError) as error:
        locate_checkpoint("3dino")
    assert 'pip install "brainfeat[hub]"' in str(error.value)
    assert f"save it as {tmp_path}/3dino_vit_weights.pth or" in str(error.value)


@pytest.mark.parametrize("prefix", ["", "./", "local-dir:"])
def test_absolute_source_of_a_folder_is_valid_elsewhere(prefix, tmp_path, monkeypatch):
    (tmp_path / "encoder").mkdir()
    monkeypatch.chdir(tmp_path)
    name = absolute_source(f"{prefix}encoder")
    monkeypatch.chdir("/")
    assert locate_checkpoint(name) == tmp_path / "encoder"


@pytest.mark.parametrize(
    "name", ["brainfound-tiny", "hf-hub:someone/model@v2", "3dino", "bm-mae"]
)
def test_absolute_source_keeps_names_and_hub_addresses(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert absolute_source(name) == name


def test_known_encoder_is_fetched_once_and_found_again(hub, monkeypatch):
    hub.add("AICONSlab/3DINO-ViT", **{"3dino_vit_weights.pth": SAFE})
    known = KNOWN_ENCODERS["3dino"]
    assert find_downloaded(known) is None
    path = locate_checkpoint("3DINO")
    assert path.name == "3dino_vit_weights.pth"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_downloaded(known) == locate_checkpoint("3dino") == path
    assert hub.fetched == ["3dino_vit_weights.pth"]


def test_checkpoint_from_the_hub_records_repository_commit_and_hash(hub, tmp_path):
    keys = (Path(__file__).parent / "peers" / "keys" / "3dino_small.tsv").read_text()
    rows = [line.split("\t") for line in keys.splitlines()]
    shapes = {name: [*map(int, shape.split("x"))] for name, shape, _ in rows}
    content = pickled(teacher={k: torch.ones(s) for k, s in shapes.items()})
    hub.add("AICONSlab/3DINO-ViT", **{"3dino_vit_weights.pth": content})
    expected = Origin(
        name="3dino",
        licence=str(KNOWN_ENCODERS["3dino"].licence),
        source="https://huggingface.co/AICONSlab/3DINO-ViT",
        file="3dino_vit_weights.pth",
        revision=COMMITS["main"],
        sha256=hashlib.sha256(content).hexdigest(),
    )
    by_name = Checkpoint.load("3dino")
    assert by_name.config.origin == expected
    address = "hf-hub:AICONSlab/3DINO-ViT:3dino_vit_weights.pth@main"
    assert Checkpoint.load(address).config == by_name.config
    assert Checkpoint.load(by_name.save(tmp_path / "a")).config.origin == expected


def test_gated_known_encoder_says_where_to_ask_and_where_to_put_it(hub, tmp_path):
    hub.add("AICONSlab/3DINO-ViT", gated=True, **{"3dino_vit_weights.pth": SAFE})
    with pytest.raises(CheckpointError) as error:
        locate_checkpoint("3dino")
    assert "ask for it on https://huggingface.co/AICONSlab/3DINO-ViT," in str(
        error.value
    )
    assert f"save it as {tmp_path}/home/3dino_vit_weights.pth" in str(error.value)


@pytest.mark.parametrize(
    "place",
    ["brainiac.ckpt", "brainiac/any.pt", "BrainIAC.ckpt", "brainiac.safetensors"],
)
def test_known_encoder_is_found_in_the_home_folder(place, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINFEAT_HOME", str(tmp_path))
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(SAFE)
    found = locate_checkpoint("brainiac")
    assert found == tmp_path / Path(place).parts[0]
    assert read_tensors(found).keys() == {"a"}


def test_known_encoder_that_no_hub_has_names_its_page(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINFEAT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BrainIAC.ckpt").write_bytes(SAFE)  # the current folder is not searched
    with pytest.raises(CheckpointError) as error:
        locate_checkpoint("brainiac")
    assert str(error.value).startswith(
        f"brainiac: expected {tmp_path}/home/BrainIAC.ckpt, got no such file; download "
        "it from https://github.com/AIM-KannLab/BrainIAC, and save it as"
    )
