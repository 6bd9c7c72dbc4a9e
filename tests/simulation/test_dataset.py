import json

import pandas as pd
import pytest

from brainfeat.exceptions import InputError
from brainfeat.simulation.dataset import CohortFolder
from brainfeat.simulation.participants import Participant
from brainfeat.simulation.scan import LABELS

SETTINGS = {
    "modalities": ["T1w"],
    "disease": 0.5,
    "disease_kind": "mass",
    "random_state": 0,
    "base": "MNI152",
}


def test_descriptions_are_written(tmp_path):
    folder = CohortFolder.open(tmp_path / "cohort", SETTINGS)
    description = json.loads((folder.path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "raw"
    assert description["GeneratedBy"][0]["Name"] == "brainfeat"
    derived = json.loads((folder.derivatives / "dataset_description.json").read_text())
    assert derived["DatasetType"] == "derivative"
    assert "mass, in 50%" in (folder.path / "README.md").read_text()
    table = pd.read_csv(folder.derivatives / "dseg.tsv", sep="\t")
    assert dict(zip(table["name"], table["index"], strict=True))["csf"] == 1
    assert list(table["name"]) == list(LABELS)


def test_names_follow_bids(tmp_path):
    folder = CohortFolder(tmp_path)
    image = folder.image("sub-0007", "FLAIR")
    assert image == tmp_path / "sub-0007" / "anat" / "sub-0007_FLAIR.nii.gz"
    labels = folder.label_map("sub-0007").relative_to(tmp_path)
    assert labels.parts[:2] == ("derivatives", "simulation")
    assert labels.name == "sub-0007_dseg.nii.gz"


def test_reopening_with_the_same_settings_touches_no_file(tmp_path):
    folder = CohortFolder.open(tmp_path, SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    CohortFolder.open(tmp_path, SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_other_settings_are_refused(tmp_path):
    CohortFolder.open(tmp_path, SETTINGS)
    expected = r"with modalities \[.*\], not \['T2w'\]; random_state 0, not 1\.$"
    with pytest.raises(InputError, match=expected):
        CohortFolder.open(
            tmp_path, SETTINGS | {"modalities": ["T2w"], "random_state": 1}
        )


def test_damaged_settings_file_is_named(tmp_path):
    CohortFolder.open(tmp_path, SETTINGS)
    (tmp_path / "code/simulation.json").write_text('{"modalities": [')
    with pytest.raises(InputError, match=r"simulation\.json: expected the settings of"):
        CohortFolder.open(tmp_path, SETTINGS)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        CohortFolder.open(tmp_path, SETTINGS)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="expected a new or empty folder"):
        CohortFolder.open(tmp_path / "notes.txt", SETTINGS)


def test_participants_are_counted(tmp_path):
    folder = CohortFolder(tmp_path)
    assert folder.n_participants() == 0
    folder.write_participants([{"participant_id": f"sub-{n}"} for n in (1, 2)])
    assert folder.n_participants() == 2


def test_sidecar_names_the_scanner(tmp_path):
    participant = Participant.draw(4, disease=0.5, random_state=0)
    folder = CohortFolder(tmp_path)
    folder.write_sidecar(participant, "T2w")
    sidecar = folder.image(participant.id, "T2w").parent / f"{participant.id}_T2w.json"
    assert (
        json.loads(sidecar.read_text())["InstitutionName"] == participant.scanner.name
    )
