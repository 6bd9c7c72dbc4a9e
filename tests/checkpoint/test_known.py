import logging
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from brainfeat.checkpoint import origin as origin_module
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.hub import HubAddress
from brainfeat.checkpoint.known import (
    KNOWN_ENCODERS,
    find_known,
    identify,
    suggest_known,
)
from brainfeat.checkpoint.layouts.conversion import LAYOUTS
from brainfeat.checkpoint.origin import Origin
from brainfeat.cli.app import app
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import CheckpointError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.preprocessing.known_recipes import RECIPES
from brainfeat.tables.provenance import describe_encoder

OURS = ("brainfeat", "dinov2", "dinov3")  # recipes of this library


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(origin_module, "_announced", set())
    monkeypatch.setenv("BRAINFEAT_HOME", str(tmp_path / "home"))
    # The command's handlers end with it.
    monkeypatch.setattr(logging.getLogger("brainfeat"), "level", logging.INFO)


def dinov2_state(embed_dim=64, depth=2, patch=14, grid=5):
    config = EncoderConfig(
        modalities=("T1w",),
        thickness=3,
        patch_size=patch,
        image_size=(grid * patch, grid * patch),
        embed_dim=embed_dim,
        depth=depth,
        num_heads=embed_dim // 64,
    )
    torch.manual_seed(5)
    state = SlabEncoder(config).state_dict()
    names = ("modality_embed", "absent_embed", "patch_embed.0", "pos_embed")
    state = {k: v for k, v in state.items() if not k.startswith(names)}
    state["patch_embed.proj.weight"] = torch.randn(embed_dim, 3, patch, patch)
    state["patch_embed.proj.bias"] = torch.randn(embed_dim)
    state["pos_embed"] = torch.randn(1, 1 + grid**2, embed_dim)
    return state


def test_every_entry_is_complete_and_points_somewhere():
    for name, known in KNOWN_ENCODERS.items():
        assert name == known.name == name.casefold()
        assert find_known(name.upper()) is known
        assert known.recipe in {*RECIPES, *OURS}
        assert known.licence.is_free or known.licence.brief
        assert known.page.startswith("https://") or not known.layout
        for text in (known.network, known.trained_on, known.takes, known.feature):
            assert text
        for source in filter(None, (known.hub, *known.copies)):
            HubAddress.parse(f"hf-hub:{source}")


def test_every_layout_is_read_and_known():
    known = {known.layout for known in KNOWN_ENCODERS.values()} - {""}
    assert known == {layout.name for layout in LAYOUTS}


def test_every_recipe_belongs_to_a_known_encoder():
    assert {*RECIPES} <= {known.recipe for known in KNOWN_ENCODERS.values()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("3dino", ("no commercial use", "no changes", "must not be shared")),
        ("neurovfm", ("no commercial use", "same licence")),
        ("neuro-jepa", ("no commercial use", "no clinical use", "passed on")),
        ("brainiac", ("no commercial use",)),
        ("neuro-simclr", ("MIT",)),
    ],
)
def test_licences_are_said_in_words(name, words):
    assert all(word in str(KNOWN_ENCODERS[name].licence) for word in words)


def test_names_that_may_be_meant_are_suggested():
    assert suggest_known("dinov2")[0] == "dinov2-small"
    assert suggest_known("BrainIACs") == ["brainiac"]
    assert suggest_known("/data/weights.pth") == suggest_known("") == []


@pytest.mark.parametrize(
    ("layout", "sizes", "details", "name"),
    [
        ("3dino", {"embed_dim": 1024, "depth": 24, "positions": 343}, {}, "3dino"),
        ("3dino", {"embed_dim": 1024, "depth": 24, "positions": 216}, {}, "med3dino"),
        ("3dino", {"embed_dim": 96, "depth": 3, "positions": 343}, {}, None),
        ("dinov2", {"embed_dim": 384, "depth": 12, "patch_size": 14}, {}, None),
        ("dinov2", {}, {"file": Path("a/dinov2_vitl14_pretrain.pth")}, "dinov2-large"),
        ("dinov2", {}, {"file": Path("MRI_CORE_vitb.pth")}, "mri-core"),
        ("dinov2", {}, {"repository": "facebook/dinov2-base"}, "dinov2-base"),
        ("brainiac", {}, {"repository": "eugenehp/brainiac"}, "brainiac"),
        ("dinov2", {}, {"file": Path("BrainIAC.ckpt")}, None),
        ("brainiac", {"embed_dim": 64}, {"file": Path("BrainIAC.ckpt")}, None),
    ],
)
def test_weights_are_identified_by_what_tells_them_apart(layout, sizes, details, name):
    known = identify(layout, sizes, **details)
    assert (known and known.name) == name


def test_weights_of_unknown_origin_have_no_licence(tmp_path, caplog):
    torch.save(dinov2_state(), tmp_path / "mine.pth")
    config = Checkpoint.load(tmp_path / "mine.pth").config
    assert config.origin.name == config.origin.licence == ""
    assert config.origin.file == "mine.pth"
    assert "unknown origin, in the layout of dinov2" in config.description
    assert not caplog.records


def test_licence_is_logged_once_and_kept(tmp_path, caplog):
    path = tmp_path / "weights.pth"
    torch.save(dinov2_state(), path)
    with caplog.at_level(logging.INFO, logger="brainfeat"):
        first = Checkpoint.load(path, known_as="dinov2-small")
        Checkpoint.load(path, known_as="DINOv2-small")
    (record,) = caplog.records
    page = KNOWN_ENCODERS["dinov2-small"].page
    assert record.getMessage() == f"DINOv2 small: licence Apache-2.0 ({page})"
    assert record.levelno == logging.INFO
    again = Checkpoint.load(first.save(tmp_path / "folder"))
    assert again.config == first.config
    assert again.config.origin.name == "dinov2-small"
    assert len(again.config.origin.sha256) == 64


def test_licence_that_forbids_uses_is_a_warning(caplog):
    known = KNOWN_ENCODERS["3dino"]
    origin = Origin(name="3dino", licence=str(known.licence), file="a.pth")
    origin_module.announce_licence(origin)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "3DINO: licence CC BY-NC-ND 4.0: no commercial use" in record.getMessage()


def test_origin_changes_no_fingerprint(tmp_path):
    torch.save(dinov2_state(), tmp_path / "a.pth")
    plain = Checkpoint.load(tmp_path / "a.pth")
    named = Checkpoint.load(tmp_path / "a.pth", known_as="dinov2-small")
    assert plain.config.origin != named.config.origin
    assert plain.fingerprint == named.fingerprint


def test_file_of_another_layout_is_refused_by_name(tmp_path):
    torch.save(dinov2_state(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: expected weights of BrainIAC"):
        Checkpoint.load(tmp_path / "a.pth", known_as="brainiac")
    with pytest.raises(CheckpointError, match="known_as: expected a name that"):
        Checkpoint.load(tmp_path / "a.pth", known_as="mine")
    (tmp_path / "home").mkdir()
    (tmp_path / "a.pth").rename(tmp_path / "home" / "3dino.pth")
    with pytest.raises(CheckpointError, match=r"3dino\.pth: expected weights of 3DINO"):
        Checkpoint.load("3dino")


def test_bundled_checkpoint_has_the_licence_of_the_library_and_of_its_data(caplog):
    licence = Checkpoint.load("brainfound-tiny").config.origin.licence
    assert licence.startswith("Apache-2.0")
    assert "IXI (CC BY-SA 3.0)" in licence
    assert not caplog.records


def test_tables_record_licence_and_origin(tmp_path):
    torch.save(dinov2_state(), tmp_path / "a.pth")
    checkpoint = Checkpoint.load(tmp_path / "a.pth", known_as="dinov2-small")
    provenance = describe_encoder(SubjectEncoder(checkpoint), "a")
    assert provenance["licence"] == "Apache-2.0"
    assert Origin.from_dict(provenance["origin"]) == checkpoint.config.origin


def _run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_list_of_encoders_fits_a_terminal():
    result = _run("info")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if "BRAINFEAT_HOME" not in line) <= 80
    assert {line.split(" ")[0] for line in lines[1:]} >= {*KNOWN_ENCODERS}


@pytest.mark.parametrize("name", KNOWN_ENCODERS)
def test_card_of_an_encoder_fits_a_terminal(name):
    result = _run("info", name)
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert str(KNOWN_ENCODERS[name].licence) in words
    assert KNOWN_ENCODERS[name].page in words
    too_long = [line for line in result.stdout.splitlines() if len(line) > 80]
    assert all(len(line.split()) <= 2 for line in too_long)  # paths and addresses


def test_card_warns_of_the_corner_patch():
    words = " ".join(_run("info", "brainiac").stdout.split())
    assert "that of the corner patch" in words


def test_family_is_listed_by_its_name():
    lines = _run("info", "dinov2").stdout.splitlines()
    names = [line.split(" ")[0] for line in lines if line.startswith("dinov")]
    assert names == [name for name in KNOWN_ENCODERS if name.startswith("dinov2-")]


def test_converted_folder_has_recipe_licence_and_origin(tmp_path):
    torch.save({"model": dinov2_state()}, tmp_path / "a.pth.tar")
    folder = tmp_path / "folder"
    result = _run("convert", tmp_path / "a.pth.tar", "-o", folder, "--as", "mri-core")
    assert result.exit_code == 0, result.output
    loaded = Checkpoint.load(folder).config
    assert loaded.origin.name == "mri-core"
    assert loaded.origin.file == "a.pth.tar"
    assert loaded.preprocessing["name"] == "mri-core"
    card = (folder / "README.md").read_text()
    for words in ("# MRI-CORE", "licence: Apache-2.0", "drops LayerScale", "a.pth.tar"):
        assert words in card
    assert loaded.origin.sha256 in card
    shown = _run("info", folder).stdout
    assert "Apache-2.0" in shown
    assert "recipe mri-core" in shown


def test_readme_lists_the_known_encoders():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    lines = [line for line in readme.splitlines() if line.startswith("| `")]
    rows = [line.split("|")[1] for line in lines]
    listed = {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)}
    families = {name for name in KNOWN_ENCODERS if name.startswith("dinov")}
    assert {"dinov2-small", "dinov3-small"} <= listed
    assert {*KNOWN_ENCODERS} - families <= listed
    n_public = len(KNOWN_ENCODERS) - 1
    assert f"with {n_public} sets of public weights" in " ".join(readme.split())
