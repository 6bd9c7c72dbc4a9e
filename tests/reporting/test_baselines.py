import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from brainfeat import Checkpoint, read_embeddings
from brainfeat.cli import app as cli
from brainfeat.exceptions import InputError
from brainfeat.reporting.baselines import embed_baseline

pytestmark = pytest.mark.filterwarnings("ignore:.* is not trained")


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def table(small_scans, small_checkpoint, tmp_path_factory):
    """Table of four scans."""
    folder = tmp_path_factory.mktemp("baselines")
    for subject in sorted(small_scans.glob("sub-*"))[:4]:
        shutil.copytree(subject, folder / "bids" / subject.name)
    path = folder / "table.parquet"
    run("embed", folder / "bids", "-o", path, "--checkpoint", small_checkpoint)
    return path


def test_untrained_encoder_differs_in_its_weights_only(table, tmp_path):
    metadata, features, provenance = read_embeddings(table)
    tables = [
        embed_baseline("untrained", metadata, provenance, tmp_path / f"{n}.parquet")
        for n in range(2)
    ]
    first, second = tables
    assert first.features.shape == features.shape
    assert not np.allclose(first.features, features)
    np.testing.assert_array_equal(first.features, second.features)
    assert first.provenance["checkpoint"].startswith("untrained ")
    same = ("preprocessing_sha256", "pooling", "modalities")
    assert all(first.provenance[name] == provenance[name] for name in same)
    names = first.metadata["participant_id"]
    assert names.tolist() == metadata["participant_id"].tolist()


@pytest.mark.slow
def test_volumetry_is_the_volume_of_the_brain_and_its_tissues(table, tmp_path):
    metadata, _, provenance = read_embeddings(table)
    output = tmp_path / "volumetry.parquet"
    found = embed_baseline("volumetry", metadata, provenance, output)
    names = Checkpoint.load("brainfound-tiny").config.encoder.anatomy_names
    assert found.features.shape == (len(metadata), 1 + len(names))
    fractions = read_embeddings(output)[1]
    brain = found.metadata["qc_brain_ml"].to_numpy()
    np.testing.assert_allclose(found.features[:, 0], brain, rtol=1e-5)
    np.testing.assert_allclose(
        found.features[:, 1:], fractions * brain[:, None], rtol=1e-5
    )


def test_images_that_are_gone_are_reported_before_the_work(table, tmp_path):
    metadata, _, provenance = read_embeddings(table)
    gone = metadata.assign(T1w="/gone/sub-1_T1w.nii.gz")
    with pytest.raises(InputError, match=r"^/gone/sub-1_T1w\.nii\.gz: expected"):
        embed_baseline("untrained", gone, provenance, tmp_path / "x.parquet")


def test_one_table_is_compared_with_a_baseline(table, tmp_path):
    metadata, *_ = read_embeddings(table)
    labels = tmp_path / "participants.tsv"
    frame = pd.DataFrame(
        {"participant_id": metadata["participant_id"], "dx": ["a", "b", "a", "b"]}
    )
    frame.to_csv(labels, sep="\t", index=False)
    options = ("--labels", labels, "--baseline", "untrained", "-o", tmp_path)
    result = run("compare", table, *options)
    assert result.exit_code == 0, result.stderr
    assert "table - untrained" in result.stdout
    assert (tmp_path / "compare-untrained.parquet").exists()
    page = (tmp_path / "compare.html").read_text()
    assert "the encoder of table.parquet with random weights" in page
    seconds = re.findall(r"<th>seconds a volume</th><td[^>]*>([^<]*)<", page)
    assert [float(text) >= 0.0 for text in seconds] == [True, True]
    noted = json.loads(table.with_suffix(".json").read_text())
    assert noted["seconds_per_volume"] > 0.0
    assert "seconds_per_volume" not in read_embeddings(table)[2]
