import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from brainfeat.checkpoint.hub import absolute_source, download, locate_checkpoint
from brainfeat.exceptions import CheckpointError, MissingDependencyError


@pytest.fixture
def hub(monkeypatch):
    calls = []

    def install(snapshot):
        def snapshot_download(repository, *, revision, allow_patterns):
            calls.append((repository, revision, tuple(allow_patterns)))
            return snapshot(len(calls))

        module = SimpleNamespace(snapshot_download=snapshot_download)
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        return calls

    return install


def test_hub_folder_has_the_requested_revision(hub, tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    calls = hub(lambda _: str(tmp_path))
    assert download("hf-hub:lab/brain.v1@2f1c") == tmp_path
    assert [call[:2] for call in calls] == [("lab/brain.v1", "2f1c")]


def test_pickles_are_downloaded_only_without_safetensors(hub, tmp_path):
    calls = hub(lambda _: str(tmp_path))
    download("hf-hub:lab/brain")
    assert [call[1] for call in calls] == [None, None]
    assert "*.bin" not in calls[0][2]
    assert "*.bin" in calls[1][2]


def test_hub_failure_is_one_line(hub):
    def fail(_):
        raise OSError("404: not found\nwith a long page")

    hub(fail)
    with pytest.raises(CheckpointError) as error:
        download("hf-hub:lab/brain")
    assert str(error.value) == (
        "hf-hub:lab/brain: cannot be downloaded: 404: not found"
    )


@pytest.mark.parametrize(
    "name", ["hf-hub:", "hf-hub:brain", "hf-hub:a/b/c", "hf-hub:a/b@"]
)
def test_malformed_hub_name_is_rejected(name):
    with pytest.raises(CheckpointError, match="expected hf-hub:organisation/name"):
        download(name)


def test_missing_hub_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "brainfeat\[hub\]"'):
        download("hf-hub:lab/brain")


@pytest.mark.parametrize("prefix", ["", "./", "local-dir:"])
def test_absolute_source_of_a_folder_is_valid_elsewhere(prefix, tmp_path, monkeypatch):
    (tmp_path / "encoder").mkdir()
    monkeypatch.chdir(tmp_path)
    name = absolute_source(f"{prefix}encoder")
    monkeypatch.chdir("/")
    assert locate_checkpoint(name) == tmp_path / "encoder"


@pytest.mark.parametrize("name", ["brainfound-tiny", "hf-hub:someone/model@v2"])
def test_absolute_source_keeps_names_and_hub_addresses(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert absolute_source(name) == name
