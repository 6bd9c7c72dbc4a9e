import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from brainfeat.checkpoint import Checkpoint
from brainfeat.exceptions import InputError
from brainfeat.preprocessing import Preprocessor
from brainfeat.pretraining.scans import pretrain_on_scans
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.store_writer import Scan
from brainfeat.simulation.cohort import simulate_cohort

CONFIG = replace(
    runpy.run_path(str(Path(__file__).with_name("conftest.py")))["SMALL_CONFIG"],
    anatomy_weight=0.0,
    n_steps=2,
    batch_size=2,
)
PREPROCESSOR = Preprocessor(shape=(24, 32, 24), spacing=8.0, alignment="none")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    simulate_cohort(folder, 2, modalities=("T1w", "FLAIR"), labels=False)
    paths = sorted(folder.rglob("*_T1w.nii.gz"))
    return [
        Scan(
            subject=path.parts[-3],
            images={"T1w": path, "FLAIR": str(path).replace("T1w", "FLAIR")},
        )
        for path in paths
    ]


def test_scans_become_a_store_and_a_checkpoint(scans, tmp_path):
    broken = Scan(subject="sub-x", images={"T1w": tmp_path / "no.nii.gz"})
    checkpoint, failed = pretrain_on_scans(
        [*scans, broken],
        CONFIG,
        output=tmp_path / "run",
        preprocessor=PREPROCESSOR,
        device="cpu",
    )
    assert [row.scan for row in failed] == [broken]
    assert len(VolumeStore(tmp_path / "run" / "store").subjects) == len(scans) == 2
    saved = Checkpoint.load(tmp_path / "run")
    assert saved.fingerprint == checkpoint.fingerprint
    assert saved.config.trained
    assert Preprocessor.from_dict(saved.config.preprocessing) == PREPROCESSOR
    again, _ = pretrain_on_scans(
        scans,
        replace(CONFIG, n_steps=3),
        output=tmp_path / "further",
        init=tmp_path / "run",
        device="cpu",
    )
    # The volumes are made as those of the encoder that training starts from.
    assert again.config.preprocessing == checkpoint.config.preprocessing
    assert not torch.equal(again.state["cls_token"], checkpoint.state["cls_token"])


def test_nothing_to_train_on_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nothing to store"):
        pretrain_on_scans(
            [], CONFIG, output=tmp_path, preprocessor=PREPROCESSOR, device="cpu"
        )
