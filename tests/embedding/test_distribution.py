import os

import joblib
import numpy as np
import pytest

from brainfeat import BrainFoundEmbedder
from brainfeat.embedding.clusters import DeviceWorkers
from brainfeat.embedding.distribution import Distribution
from brainfeat.embedding.encoder_spec import EncoderSpec
from brainfeat.exceptions import CheckpointError, VolumeError, WorkerError
from brainfeat.io.hashing import content_hash
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.subjects.subject import Subject

pytestmark = pytest.mark.filterwarnings(
    "ignore::brainfeat.exceptions.UntrainedCheckpointWarning",
    # The libraries of the cluster leave sockets to the garbage collector.
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning:distributed",
)

# Kills its process, like a crash in native code or the out-of-memory killer.
DEADLY = """
import os, signal
def mask(volume):
    if "deadly" in volume.path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return volume.data > 100
"""


@pytest.fixture(scope="module")
def paths(small_scans):
    return sorted(map(str, small_scans.rglob("*.nii.gz")))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "deadly_mask.py").write_text(DEADLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        workers = DeviceWorkers(["cpu", "cpu"])
        yield workers
        workers.close()


def _embed(workers, paths, **options):
    subjects = [Subject(path, {"T1w": path}) for path in paths]
    outcomes = Distribution(workers, EncoderSpec(**options)).stream(subjects)
    found = {outcome.subject.participant_id: outcome for outcome in outcomes}
    return [found[path] for path in paths]


@pytest.mark.slow
def test_two_processes_give_the_same_rows(two_processes, paths, small_checkpoint):
    outcomes = _embed(two_processes, paths, checkpoint=small_checkpoint)
    expected = BrainFoundEmbedder(small_checkpoint).fit_transform(paths)
    np.testing.assert_array_equal([o.unwrap().vector for o in outcomes], expected)


@pytest.mark.slow
def test_a_subject_that_kills_its_process_fails_alone(
    two_processes, paths, small_checkpoint, tmp_path
):
    deadly = tmp_path / "deadly.nii.gz"
    deadly.symlink_to(paths[0])
    given = [*paths[:5], str(deadly), *paths[5:]]
    settings = {"shape": (32, 40, 24), "spacing": 0.3, "alignment": "none"}
    outcomes = _embed(
        two_processes,
        given,
        checkpoint=small_checkpoint,
        preprocessor=Preprocessor(brain_mask="deadly_mask:mask", **settings),
    )
    lost = outcomes.pop(5)
    assert isinstance(lost.error, WorkerError)
    assert str(lost.error).startswith(f"{deadly}: the process that embedded it")
    assert all(outcome.error is None for outcome in outcomes)


@pytest.mark.slow
def test_unchanged_images_are_skipped_by_the_workers(
    two_processes, paths, small_checkpoint
):
    first, second = (Subject(path, {"T1w": path}) for path in paths[:2])
    known = {first.key: content_hash(paths[0]), second.key: "another"}
    distribution = Distribution(two_processes, EncoderSpec(checkpoint=small_checkpoint))
    outcomes = distribution.stream([first, second], known_sha256=known)
    statuses = {o.subject.participant_id: o.status for o in outcomes}
    assert statuses == {paths[0]: "skipped", paths[1]: "done"}


@pytest.mark.slow
def test_a_worker_without_encoder_ends_the_run(two_processes, paths, small_checkpoint):
    with pytest.raises(CheckpointError, match="another checkpoint"):
        _embed(two_processes, paths, checkpoint=small_checkpoint, fingerprint="f" * 64)


def test_the_embedder_sends_paths_to_dask(paths, small_checkpoint):
    distributed = pytest.importorskip("distributed")
    embedder = BrainFoundEmbedder(small_checkpoint).fit(paths)
    expected = embedder.transform(paths)
    with (
        distributed.Client(processes=False, n_workers=2, dashboard_address=None),
        joblib.parallel_config("dask"),
    ):
        np.testing.assert_array_equal(embedder.transform(paths), expected)
        with pytest.raises(VolumeError, match=r"config\.json"):
            embedder.transform([*paths, f"{small_checkpoint}/config.json"])


@pytest.mark.slow
def test_workers_in_another_folder_find_images_and_share_the_cache(
    paths, small_scans, small_checkpoint, tmp_path, monkeypatch
):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(small_scans)
    near = [os.path.relpath(path) for path in paths[:2]]
    kept = os.path.relpath(tmp_path / "kept")
    embedder = BrainFoundEmbedder(small_checkpoint, memory=kept).fit(near)
    expected = BrainFoundEmbedder(small_checkpoint).fit_transform(paths[:2])
    elsewhere = tmp_path / "deep" / "elsewhere"
    elsewhere.mkdir(parents=True)
    with (
        distributed.Client(n_workers=1, dashboard_address=None) as client,
        joblib.parallel_config("dask"),
    ):
        client.run(os.chdir, elsewhere)
        np.testing.assert_array_equal(embedder.transform(near), expected)
    assert len([*(tmp_path / "kept").rglob("*.npy")]) == 2


@pytest.mark.slow
def test_the_embedder_sends_paths_to_ray(paths, small_checkpoint):
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    register_ray()
    embedder = BrainFoundEmbedder(small_checkpoint).fit(paths)
    expected = embedder.transform(paths)
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        with joblib.parallel_config("ray"):
            np.testing.assert_array_equal(embedder.transform(paths), expected)
    finally:
        ray.shutdown()
