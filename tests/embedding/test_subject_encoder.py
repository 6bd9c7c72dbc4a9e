import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.embedding import subject_encoder as subject_encoder_module
from brainfeat.embedding.cache import EmbeddingCache
from brainfeat.embedding.stream import Embedding
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import ConfigError, ModalityError, VolumeError
from brainfeat.io.hashing import content_hash, hash_images
from brainfeat.io.volumes import read_volume, to_image, write_volume
from brainfeat.models import threads as threads_module
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.pooling import pool_regions, pool_tissues, pool_tokens
from brainfeat.models.threads import count_threads
from brainfeat.preprocessing import preprocessor
from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.quality import Quality
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Volume

pytestmark = pytest.mark.usefixtures("without_registration")


def embed(encoder, subjects, **options):
    """Return the rows; every subject must have one."""
    outcomes = list(encoder.stream(subjects, **options))
    assert [outcome.subject for outcome in outcomes] == list(subjects)
    return np.stack([outcome.unwrap().vector for outcome in outcomes])


def make_encoder(checkpoint, **options):
    return SubjectEncoder(checkpoint, **{"dtype": "float32", **options})


@pytest.fixture
def forwards(monkeypatch):
    """Shapes of every batch that an encoder sees."""
    shapes = []
    forward = SlabEncoder.forward

    def count(self, slabs, **options):
        shapes.append(tuple(slabs.shape))
        return forward(self, slabs, **options)

    monkeypatch.setattr(SlabEncoder, "forward", count)
    return shapes


@pytest.mark.parametrize("pooling", ["mean", "cls", "cls+mean", "anatomy"])
def test_row_is_the_pooled_output_of_the_encoder(checkpoint, subjects, pooling):
    encoder = make_encoder(checkpoint, pooling=pooling)
    rows = embed(encoder, subjects[:2])
    grid = SlabGrid(thickness=2)
    for subject, row in zip(subjects, rows, strict=False):
        volumes = {k: v and read_volume(v) for k, v in subject.images.items()}
        one = encoder.preprocessor.apply(volumes, checkpoint.config.encoder.modalities)
        with torch.inference_mode():
            output = checkpoint.build_encoder()(
                torch.from_numpy(grid.extract(one.data))[None],
                present=torch.from_numpy(one.present)[None],
            )
        fractions = torch.from_numpy(grid.token_fractions(one.foreground, 8))[None]
        if pooling == "anatomy":
            weight, bias = (
                checkpoint.state[f"anatomy.{k}"] for k in ("weight", "bias")
            )
            expected = pool_tissues(output, fractions, weight, bias)[0].numpy()
        else:
            expected = pool_tokens(output, fractions, pooling)[0].numpy()
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
    assert rows.dtype == np.float32
    assert rows.shape == (2, encoder.n_features)
    assert len(encoder.feature_names) == encoder.n_features


def test_anatomy_needs_an_encoder_that_reads_it(make_checkpoint, checkpoint):
    blind = make_checkpoint(encoder=replace(checkpoint.config.encoder, tissues=()))
    with pytest.raises(ConfigError, match="learnt to read anatomy"):
        make_encoder(blind, pooling="anatomy")


def test_volumes_in_ml_are_sums_over_patches_of_tissues_and_structures(
    checkpoint, make_checkpoint, subjects
):
    config = replace(
        checkpoint.config.encoder, tissues=("csf", "other"), structures=("thalamus",)
    )
    reading = make_checkpoint(encoder=config)
    shares = make_encoder(reading, pooling="anatomy")
    volumes = make_encoder(reading, pooling="anatomy_ml")
    assert volumes.feature_names == ("emb_csf", "emb_other", "emb_thalamus")
    assert shares.feature_names == volumes.feature_names
    share, ml = embed(shares, subjects[:2]), embed(volumes, subjects[:2])
    np.testing.assert_allclose(share[:, :2].sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        ml, share * ml[:, :2].sum(axis=1, keepdims=True), rtol=1e-4
    )
    one, _ = volumes.preprocess(subjects[0])
    encoder_input = volumes.make_input(one)
    with torch.inference_mode():
        output = volumes.forward(
            torch.from_numpy(encoder_input.voxels)[None],
            torch.from_numpy(one.present)[None],
            torch.from_numpy(encoder_input.fractions)[None],
        )
        read = reading.build_encoder().anatomy(output.patch_tokens[0])
    total = read[torch.from_numpy(encoder_input.fractions) > 0].sum(dim=0).numpy()
    # Patches of 8 x 8 x 2 voxels of 4 mm.
    np.testing.assert_allclose(ml[0], total * 128 * 64 / 1000, rtol=1e-4)


def test_volumes_in_ml_need_the_size_of_the_subject(checkpoint):
    settings = dict(checkpoint.config.preprocessing)
    for alignment in ("none", "rigid", "affine"):
        chosen = Preprocessor.from_dict(settings | {"alignment": alignment})
        options = {"pooling": "anatomy_ml", "preprocessor": chosen}
        if alignment != "affine":
            assert make_encoder(checkpoint, **options).n_features == 3
            continue
        with pytest.raises(ConfigError, match="alignment='rigid' or 'none'"):
            make_encoder(checkpoint, **options)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_skipped_background_changes_nothing(
    checkpoint, make_checkpoint, subjects, batch_size
):
    config = replace(checkpoint.config.encoder, background="skipped")
    skipping = make_checkpoint(encoder=config)
    encoder = make_encoder(skipping, pooling="cls+mean", batch_size=batch_size)
    rows = embed(encoder, subjects)
    one = encoder.preprocessor.apply(
        {k: read_volume(v) for k, v in subjects[2].images.items()},
        config.modalities,
    )
    grid = SlabGrid(thickness=2)
    fractions = torch.from_numpy(grid.token_fractions(one.foreground, 8))[None]
    assert ((fractions > 0) & (fractions < 0.1)).any()
    fractions[fractions < 0.1] = 0.0
    slabs = torch.from_numpy(grid.extract(one.data))[None]
    unseen = (fractions == 0).repeat_interleave(8, 2).repeat_interleave(8, 3)
    slabs = slabs.masked_fill(unseen[:, :, None], torch.nan)
    with torch.inference_mode():
        output = skipping.build_encoder()(slabs, foreground=fractions > 0)
    expected = pool_tokens(output, fractions, "cls+mean")[0].numpy()
    np.testing.assert_allclose(rows[2], expected, rtol=1e-4, atol=1e-5)
    kept = embed(make_encoder(checkpoint, pooling="cls+mean"), subjects)
    assert not np.allclose(rows, kept, rtol=1e-3)


def test_subjects_differ(checkpoint, subjects):
    rows = embed(make_encoder(checkpoint), subjects)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    assert (distances[~np.eye(len(rows), dtype=bool)] > 1e-3).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_encoder_has_its_precision(checkpoint, dtype):
    assert make_encoder(checkpoint, dtype=dtype).precision == dtype


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_row_alone_is_bitwise_its_row_in_a_batch(
    checkpoint, subjects, batch_size, dtype
):
    encoder = make_encoder(checkpoint, batch_size=batch_size, dtype=dtype)
    together = embed(encoder, subjects[:4])
    alone = np.concatenate([embed(encoder, [subject]) for subject in subjects[:4]])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(("batch_size", "n_jobs"), [(2, 1), (5, 3), (8, 3)])
def test_speed_options_change_nothing(checkpoint, subjects, batch_size, n_jobs):
    expected = embed(make_encoder(checkpoint, batch_size=1), subjects)
    rows = embed(
        make_encoder(checkpoint, batch_size=batch_size), subjects, n_jobs=n_jobs
    )
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)


def test_subjects_share_batches_of_one_shape(checkpoint, subjects, forwards):
    embed(make_encoder(checkpoint, batch_size=2), subjects)
    assert forwards == [(2, 18, 6, 56, 40)] * 3


def test_absent_modality_differs_from_zeros(checkpoint, subjects):
    t1 = subjects[0].images["T1w"]
    zeros = nib.Nifti1Image(
        np.zeros(read_volume(t1).data.shape, np.float32) + 1e-3, nib.load(t1).affine
    )
    lone = Subject("a", {"T1w": t1})
    explicit = Subject("a", {"T1w": t1, "T2w": None, "FLAIR": None})
    encoder = make_encoder(checkpoint)
    rows = embed(encoder, [lone, explicit])
    np.testing.assert_array_equal(rows[0], rows[1])
    (filled,) = encoder.stream([Subject("a", {"T1w": t1, "T2w": zeros})])
    assert filled.error or not np.allclose(filled.unwrap().vector, rows[0])


def test_failed_subject_does_not_stop_the_others(checkpoint, subjects, tmp_path):
    cut = tmp_path / "cut_T1w.nii.gz"
    cut.write_bytes(b"\x1f\x8b not gzip")
    flat = nib.Nifti1Image(np.zeros((9, 8, 7), np.float32), np.eye(4))
    bad = [
        Subject("cut", {"T1w": str(cut)}),
        Subject("none", {"T1w": tmp_path / "none.nii"}),
        Subject("flat", {"T1w": flat}),
        Subject("empty", {"T1w": None}),
        Subject("other", {"PDw": subjects[0].images["T1w"]}),
    ]
    mixed = [subjects[0], *bad[:3], subjects[2], *bad[3:], subjects[3]]
    outcomes = list(make_encoder(checkpoint, batch_size=2).stream(mixed, n_jobs=2))
    assert [outcome.subject for outcome in outcomes] == mixed
    failed = [i for i, outcome in enumerate(outcomes) if outcome.error]
    assert failed == [1, 2, 3, 5, 6]
    beginnings = [str(cut), str(tmp_path / "none.nii"), "flat: ", "empty: ", "other: "]
    for index, start in zip(failed, beginnings, strict=True):
        error = outcomes[index].error
        assert isinstance(error, VolumeError | ModalityError)
        assert str(error).startswith(start)
    good = [outcomes[index].unwrap().vector for index in (0, 4, 7)]
    expected = embed(make_encoder(checkpoint), [subjects[i] for i in (0, 2, 3)])
    np.testing.assert_allclose(good, expected, rtol=1e-5, atol=1e-6)


def test_unexpected_error_keeps_its_type_and_names_the_file(
    checkpoint, subjects, monkeypatch
):
    def fail(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Preprocessor, "apply", fail)
    (outcome,) = make_encoder(checkpoint).stream(subjects[:1])
    assert isinstance(outcome.error, RuntimeError)
    assert subjects[0].images["T1w"] in outcome.error.__notes__[0]


def test_values_that_are_not_finite_are_an_error(checkpoint, subjects):
    state = {k: v.clone() for k, v in checkpoint.state.items()}
    state["norm.bias"][0] = torch.inf
    broken = Checkpoint(checkpoint.config, state)
    (outcome,) = make_encoder(broken).stream(subjects[:1])
    assert isinstance(outcome.error, VolumeError)
    assert str(outcome.error).startswith(subjects[0].images["T1w"])


@pytest.mark.parametrize(("batch_size", "n_jobs"), [(1, 2), (3, 1)])
def test_subjects_are_read_only_a_few_ahead(checkpoint, subjects, batch_size, n_jobs):
    n_read = 0

    def endless():
        nonlocal n_read
        while True:
            n_read += 1
            yield subjects[0]

    encoder = make_encoder(checkpoint, batch_size=batch_size)
    n_encoders = count_threads(encoder.device)
    outcomes = encoder.stream(endless(), n_jobs=n_jobs)
    for n_done, _ in zip(range(1, 10), outcomes, strict=False):
        assert n_read <= n_done + n_jobs + (2 + n_encoders) * batch_size
    outcomes.close()


def test_batches_are_encoded_in_parallel(checkpoint, subjects, monkeypatch):
    # Each waits inside the encoder until there are two.
    monkeypatch.setattr(threads_module, "count_threads", lambda *_: 2)
    both, forward = threading.Barrier(2, timeout=30), SlabEncoder.forward

    def meet(self, slabs, **options):
        both.wait()
        return forward(self, slabs, **options)

    n_threads = torch.get_num_threads()
    encoder = make_encoder(checkpoint)
    expected = embed(encoder, subjects[:2])
    monkeypatch.setattr(SlabEncoder, "forward", meet)
    np.testing.assert_array_equal(embed(encoder, subjects[:2]), expected)
    assert torch.get_num_threads() == n_threads


def test_threads_end_with_the_stream(checkpoint, subjects):
    outcomes = make_encoder(checkpoint).stream(subjects, n_jobs=2)
    next(outcomes)
    outcomes.close()
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("brainfeat") for name in names)


@pytest.mark.parametrize("cached", [False, True])
def test_each_file_is_hashed_once_in_a_reading_thread(
    checkpoint, subjects, monkeypatch, tmp_path, cached
):
    threads = []

    def hash_file(source):
        threads.append(threading.current_thread())
        return content_hash(source)

    monkeypatch.setattr(subject_encoder_module, "known_hash", hash_file)
    cache = EmbeddingCache(tmp_path) if cached else None
    outcomes = list(make_encoder(checkpoint).stream(subjects, cache=cache))
    assert len(threads) == sum(len(subject.paths) for subject in subjects)
    assert threading.current_thread() not in threads
    assert [outcome.unwrap().input_sha256 for outcome in outcomes] == [
        hash_images(subject.paths) for subject in subjects
    ]


def test_embedding_has_the_voxel_size_of_the_first_modality(checkpoint, tmp_path, rng):
    images = {}
    for name, spacing in (("FLAIR", (2.0, 0.9375, 5.0)), ("T1w", (1.2, 1.0, 3.0))):
        data = rng.normal(size=(20, 30, 25)).astype(np.float32)
        image = nib.Nifti1Image(data, np.diag([*spacing, 1.0]))
        images[name] = tmp_path / f"{name}.nii.gz"
        image.to_filename(images[name])
    subjects = [
        Subject("both", images),
        Subject("FLAIR", {"T1w": None, "FLAIR": images["FLAIR"]}),
    ]
    encoder, cache = make_encoder(checkpoint), EmbeddingCache(tmp_path / "kept")
    for _ in ("computed", "cached"):
        outcomes = list(encoder.stream(subjects, cache=cache))
        sizes = [outcome.unwrap().voxel_mm for outcome in outcomes]
        assert sizes == ["1.2x1.0x3.0", "2.0x0.94x5.0"]


def test_quality_is_cached_with_the_vector(checkpoint, subjects, tmp_path):
    encoder, cache = make_encoder(checkpoint), EmbeddingCache(tmp_path / "kept")
    computed, cached = (
        [outcome.unwrap() for outcome in encoder.stream(subjects, cache=cache)]
        for _ in range(2)
    )
    for first, again in zip(computed, cached, strict=True):
        assert first.quality.brain_ml > 0
        np.testing.assert_equal(again.quality, first.quality)


def test_notes_of_earlier_caches_have_no_quality():
    vector = np.ones(3, np.float32)
    for note, size in (("", None), ("1x2x3", "1x2x3")):
        earlier = Embedding.from_note(vector, "sha", note)
        assert earlier[1:] == ("sha", size, None, None)
    known = Embedding(vector, "sha", None, Quality(np.nan, 1.5, "a"))
    np.testing.assert_equal(Embedding.from_note(vector, "sha", known.to_note()), known)


def test_images_in_memory_are_hashed_for_a_cache_only(checkpoint, subjects, tmp_path):
    image = to_image(read_volume(subjects[0].images["T1w"]))
    encoder = make_encoder(checkpoint)
    for cache, is_hashed in ((None, False), (EmbeddingCache(tmp_path), True)):
        (outcome,) = encoder.stream([Subject("a", {"T1w": image})], cache=cache)
        assert bool(outcome.unwrap().input_sha256) == is_hashed


def test_unchanged_subjects_are_skipped_without_reading(checkpoint, subjects, forwards):
    first, second = subjects[:2]
    known = {first.key: hash_images(first.paths), second.key: "other"}
    outcomes = list(
        make_encoder(checkpoint).stream([first, second], known_sha256=known)
    )
    assert [outcome.status for outcome in outcomes] == ["skipped", "done"]
    assert len(forwards) == 1


def test_cached_subject_is_not_read_again(checkpoint, subjects, forwards, tmp_path):
    encoder = make_encoder(checkpoint)
    first = embed(encoder, subjects, cache=EmbeddingCache(tmp_path))
    forwards.clear()
    again = embed(encoder, subjects[::-1], cache=EmbeddingCache(tmp_path), n_jobs=2)
    assert forwards == []
    np.testing.assert_array_equal(again, first[::-1])


def test_cache_ignores_the_name_of_an_image(checkpoint, subjects, forwards, tmp_path):
    path = subjects[0].images["T1w"]
    (tmp_path / "copy.nii.gz").write_bytes(Path(path).read_bytes())
    encoder, cache = make_encoder(checkpoint), EmbeddingCache(tmp_path / "kept")
    for source in (path, tmp_path / "copy.nii.gz", str(path)):
        embed(encoder, [Subject("a", {"T1w": source})], cache=cache)
    embed(encoder, [Subject("a", {"T1w": path, "T2w": None})], cache=cache)
    assert len(forwards) == 1


def test_everything_that_changes_a_row_misses_the_cache(
    checkpoint, subjects, forwards, tmp_path
):
    cache = EmbeddingCache(tmp_path)
    image = to_image(read_volume(subjects[0].images["T1w"]))
    subject = Subject("a", {"T1w": image})
    other_weights = dict(checkpoint.state)
    other_weights["norm.bias"] = other_weights["norm.bias"] + 1
    other_data = nib.Nifti1Image(image.get_fdata() * 1.5, image.affine)
    other_affine = nib.Nifti1Image(np.asarray(image.dataobj), image.affine * 1.001)
    other_affine.affine[3, 3] = 1.0
    finer = replace(Preprocessor.from_dict(checkpoint.config.preprocessing), spacing=3)
    runs = [
        (make_encoder(checkpoint), subject),
        (make_encoder(checkpoint, pooling="cls"), subject),
        (make_encoder(checkpoint, preprocessor=finer), subject),
        (make_encoder(checkpoint, dtype="bfloat16"), subject),
        (make_encoder(Checkpoint(checkpoint.config, other_weights)), subject),
        (make_encoder(checkpoint), Subject("a", {"T1w": other_data})),
        (make_encoder(checkpoint), Subject("a", {"T1w": other_affine})),
        (make_encoder(checkpoint), Subject("a", {"T2w": image})),
    ]
    for _ in range(2):
        for encoder, one in runs:
            embed(encoder, [one], cache=cache)
    assert len(forwards) == len(runs)


def test_mask_file_counts_as_input(checkpoint, subjects, forwards, tmp_path):
    own = Preprocessor.from_dict(checkpoint.config.preprocessing)
    path = tmp_path / "sub.nii.gz"
    volume = read_volume(subjects[0].images["T1w"])
    write_volume(volume, path)
    masked = replace(own, brain_mask=str(tmp_path / "{stem}_mask.nii.gz"))
    encoder = make_encoder(checkpoint, preprocessor=masked)
    cache = EmbeddingCache(tmp_path / "kept")
    for threshold in (100, 100, 300):
        mask = Volume(volume.data > threshold, volume.geometry)
        write_volume(mask, tmp_path / "sub_mask.nii.gz")
        for source in (path, nib.load(path)):
            embed(encoder, [Subject("a", {"T1w": source})], cache=cache)
    assert len(forwards) == 4
    (outcome,) = encoder.stream([Subject("a", {"T1w": to_image(volume)})], cache=cache)
    assert isinstance(outcome.error, ConfigError)


def test_damaged_entry_is_computed_again(checkpoint, subjects, tmp_path, caplog):
    encoder, cache = make_encoder(checkpoint), EmbeddingCache(tmp_path)
    first = embed(encoder, subjects[:2], cache=cache)
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:-8])
    with caplog.at_level(logging.WARNING):
        again = embed(encoder, subjects[:2], cache=cache)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(embed(encoder, subjects[:2], cache=cache), first)


def test_bfloat16_is_close_to_float32(make_checkpoint, subjects):
    # The bundled encoder's depth, at a width that is quick.
    config = EncoderConfig.preset(
        "tiny", embed_dim=96, num_heads=3, image_size=(56, 40)
    )
    checkpoint = make_checkpoint(encoder=config)
    half, full = (
        embed(SubjectEncoder(checkpoint, dtype=dtype), subjects[:2])
        for dtype in ("bfloat16", "float32")
    )
    assert not np.array_equal(half, full)
    cosines = (half * full).sum(1) / np.linalg.norm(half, axis=1)
    assert (cosines / np.linalg.norm(full, axis=1) > 0.9995).all()


def aligned(checkpoint):
    preprocessor = Preprocessor.from_dict(checkpoint.config.preprocessing)
    return replace(preprocessor, alignment="rigid")


def test_regions_are_means_over_their_tokens(checkpoint, subjects):
    preprocessor = aligned(checkpoint)
    labels = np.zeros(preprocessor.shape, np.uint8)
    labels[8:16, 16:40, :12] = 2
    labels[16:, 8:16, 20:] = 7
    atlas = nib.Nifti1Image(labels, preprocessor.geometry.affine)
    encoder = make_encoder(
        checkpoint, pooling="regions", labels_img=atlas, preprocessor=preprocessor
    )
    assert encoder.region_names == ("region_2", "region_7")
    assert encoder.n_features == 48
    (row,) = embed(encoder, subjects[:1])
    one = preprocessor.apply(
        {k: read_volume(v) for k, v in subjects[0].images.items()},
        checkpoint.config.encoder.modalities,
    )
    grid = SlabGrid(thickness=2)
    with torch.inference_mode():
        output = checkpoint.build_encoder()(torch.tensor(grid.extract(one.data))[None])
    weights = np.stack([grid.token_fractions(labels == value, 8) for value in (2, 7)])
    foreground = torch.from_numpy(grid.token_fractions(one.foreground, 8) > 0)
    assert not foreground.all()
    expected = pool_regions(output, torch.from_numpy(weights), foreground[None])[0]
    np.testing.assert_allclose(row, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("background", ["kept", "skipped"])
def test_region_without_brain_is_named(make_checkpoint, subjects, background):
    config = replace(make_checkpoint().config.encoder, background=background)
    checkpoint = make_checkpoint(encoder=config)
    preprocessor = aligned(checkpoint)
    labels = np.full(preprocessor.shape, 2, np.uint8)
    labels[:8, :8, :2] = 7  # a corner of the grid
    atlas = nib.Nifti1Image(labels, preprocessor.geometry.affine)
    encoder = make_encoder(
        checkpoint, pooling="regions", labels_img=atlas, preprocessor=preprocessor
    )
    (outcome,) = encoder.stream(subjects[:1])
    assert str(outcome.error) == (
        f"{subjects[0].images['T1w']}: expected some of the brain in each region of "
        "labels_img, got none in region_7."
    )


def test_centred_brain_is_in_doubt_if_it_should_be_aligned(
    checkpoint, subjects, monkeypatch
):
    centred = Alignment(np.eye(4), np.eye(4), similarity=float("nan"))
    monkeypatch.setattr(preprocessor, "align_to_template", lambda *_: centred)
    for tool, expected in ((None, ""), (aligned(checkpoint), "not aligned")):
        encoder = make_encoder(checkpoint, preprocessor=tool)
        (outcome,) = encoder.stream(subjects[:1])
        assert outcome.unwrap().quality.doubt[:11] == expected


def test_regions_need_alignment_and_an_atlas(checkpoint):
    atlas = nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4))
    with pytest.raises(ConfigError, match=r"aligns to the template.*got alignment="):
        make_encoder(checkpoint, pooling="regions", labels_img=atlas)
    with pytest.raises(ConfigError, match="labels_img: pooling='regions' expects"):
        make_encoder(checkpoint, pooling="regions", preprocessor=aligned(checkpoint))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pooling", "max"),
        ("pooling", None),
        ("preprocessor", {"spacing": 2.0}),
        ("device", "tpu?"),
        ("dtype", "float64"),
        ("batch_size", 0),
    ],
)
def test_impossible_options_are_refused(checkpoint, name, value):
    with pytest.raises(ConfigError, match=f"^{name}: expected"):
        SubjectEncoder(checkpoint, **{name: value})


def test_grid_must_divide_into_patches(checkpoint):
    odd = replace(aligned(checkpoint), shape=(41, 56, 36))
    with pytest.raises(ConfigError, match=r"preprocessor: its shape .* 56 x 41 pixels"):
        SubjectEncoder(checkpoint, preprocessor=odd)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("batch_size", ["auto", 2])
def test_device_changes_nothing_beyond_rounding(checkpoint, subjects, batch_size):
    expected = embed(make_encoder(checkpoint, device="cpu"), subjects)
    encoder = make_encoder(checkpoint, device="cuda", batch_size=batch_size)
    rows = embed(encoder, subjects)
    np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-3)
    half = make_encoder(checkpoint, device="cuda", dtype="bfloat16")
    together = embed(half, subjects)
    alone = np.concatenate([embed(half, [subject]) for subject in subjects])
    np.testing.assert_array_equal(together, alone)


class Cramped(SubjectEncoder):
    """An encoder whose device holds no batch, and whose CPU holds one subject.

    It raises the error of CUDA.
    """

    n_subjects = 1

    def __init__(self, *arguments, **options):
        self.tried = []
        super().__init__(*arguments, **options)

    def forward(self, slabs, present, fractions):
        self.tried.append((self.device.type, len(slabs)))
        if len(slabs) > self.n_subjects or self.device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(slabs, present, fractions)


def test_short_memory_shrinks_batches_and_then_uses_the_cpu(
    checkpoint, subjects, caplog
):
    expected = embed(make_encoder(checkpoint), subjects)
    options = {"dtype": "float32", "batch_size": 4, "device": "meta"}
    encoder = Cramped(checkpoint, **options)
    rows = embed(encoder, subjects)
    np.testing.assert_allclose(rows, expected, rtol=1e-2, atol=1e-2)
    assert encoder.tried[:4] == [("meta", 4), ("meta", 2), ("meta", 1), ("cpu", 1)]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory: continuing with batches of 2",
        "out of memory: continuing with batches of 1",
        "out of memory: continuing with the CPU",
    ]


def test_threads_short_of_memory_halve_the_batch_once(checkpoint):
    both = threading.Barrier(2, timeout=30)

    class Short(SubjectEncoder):
        def _encode_batch(self, items):
            if self.batch_size == 4:
                both.wait()
                raise torch.OutOfMemoryError("out of memory")
            return np.zeros((len(items), 1))

    encoder = Short(checkpoint, device="cpu", batch_size=4)
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(encoder._encode_equal, [[None] * 4] * 2))
    assert [len(row) for row in rows] == [4, 4]
    assert encoder.batch_size == 2


def test_a_subject_too_large_for_memory_fails_alone(checkpoint, subjects, monkeypatch):
    monkeypatch.setattr(Cramped, "n_subjects", 0)
    outcomes = list(Cramped(checkpoint, device="cpu").stream(subjects[:2]))
    for outcome, subject in zip(outcomes, subjects[:2], strict=True):
        assert isinstance(outcome.error, torch.OutOfMemoryError)
        assert subject.source_name in outcome.error.__notes__[0]
