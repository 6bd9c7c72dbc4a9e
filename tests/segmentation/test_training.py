import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from brainfeat.exceptions import TrainingError
from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.segmentation import training
from brainfeat.segmentation.batches import DrawnCrops
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.plan import Split, TrainingPlan, split_subjects
from brainfeat.segmentation.presampled import PresampledBoxes
from brainfeat.segmentation.run_state import SavedRun
from brainfeat.segmentation.store import LabelledStore
from brainfeat.segmentation.training import train
from brainfeat.slabs.grid import SlabGrid

SHAPE = (16, 24, 8)
PLAN = TrainingPlan(
    n_steps=6,
    learning_rate=1e-2,
    batch_size=1,
    freeze_encoder=True,
    seed=0,
)
SPLIT = Split(train=np.array([0]), held_out=np.array([], dtype=np.int64))
HELD_OUT = SPLIT._replace(held_out=np.array([1]))


@pytest.fixture
def store(tmp_path):
    """Two subjects of noise, bright where the label is one."""
    rng = np.random.default_rng(0)
    for index in range(2):
        labels = np.zeros([2 * size for size in SHAPE], np.uint16)
        labels[8:24, 12:30, 4:12] = 1
        fine = rng.normal(size=(1, *labels.shape)) + 3.0 * labels
        coarse = rng.normal(size=(4, *SHAPE))
        for name, array in (
            ("coarse", coarse.astype(np.float16)),
            ("fine", fine.astype(np.float16)),
            ("labels", labels),
        ):
            np.save(tmp_path / f"{index}_{name}.npy", array)
    counts = np.ones((2, 2, 4), np.int64)
    every = np.ones((2, 1), bool)
    present = np.ones((2, 3), bool)
    return LabelledStore(tmp_path, (0, 1), counts, every, present, (0, 1), 2)


@pytest.fixture
def network(checkpoint):
    torch.manual_seed(0)
    config = DecoderConfig(
        n_classes=2, n_modalities=1, embed_dim=24, n_depths=2, width=4
    )
    space = SegmentationSpace(
        preprocessor=Preprocessor(shape=SHAPE, spacing=2.0),
        slab_grid=SlabGrid(thickness=2),
        encoder_modalities=("T1w", "T2w", "FLAIR"),
        modalities=("T1w",),
        allow_missing=False,
    )
    return SegmentationNetwork(
        encoder=checkpoint.build_encoder(),
        decoder=SegmentationDecoder(config),
        prior=torch.full((2, 8, 12, 4), 0.5),
        space=space,
        device=torch.device("cpu"),
    )


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def is_same(module, state):
    now = module.state_dict()
    return all(torch.equal(now[name], value) for name, value in state.items())


def test_loss_falls(network, store):
    plan = replace(PLAN, n_steps=50)
    result = train(network, store, SPLIT, plan)
    assert np.mean(result.loss_curve[-5:]) < 0.8 * np.mean(result.loss_curve[:5])
    assert len(result.loss_curve) == 50
    assert result.validation_scores == []
    assert not network.decoder.training


@dataclass
class _Interrupted:
    """A source that fails after some batches."""

    source: PresampledBoxes
    n_left: int

    def draw(self, generator):
        self.n_left -= 1
        if self.n_left < 0:
            raise KeyboardInterrupt
        return self.source.draw(generator)


def test_resumed_training_equals_an_uninterrupted_one(network, store, tmp_path):
    source = PresampledBoxes(network, store, np.arange(2), size=(2, 1, 1))
    source.encode()
    before = copy.deepcopy(network.decoder.state_dict())
    whole = train(network, store, SPLIT, PLAN, source=source)
    expected = state_of(network.decoder)
    saved = SavedRun(tmp_path / "state.safetensors", every=2)
    network.decoder.load_state_dict(before)
    failing = _Interrupted(source, n_left=5)
    with pytest.raises(KeyboardInterrupt):
        train(network, store, SPLIT, PLAN, source=failing, saved=saved)
    network.decoder.load_state_dict(before)
    resumed = train(network, store, SPLIT, PLAN, source=source, saved=saved)
    assert resumed.loss_curve == whole.loss_curve
    assert is_same(network.decoder, expected)
    assert train(network, store, SPLIT, PLAN, saved=saved).loss_curve == whole[0]


def test_state_of_another_training_is_refused(network, store, tmp_path):
    saved = SavedRun(tmp_path / "state.safetensors")
    saved.path.write_bytes(b"no tensors")
    with pytest.raises(TrainingError, match=r"state.safetensors: expected the state"):
        train(network, store, SPLIT, PLAN, saved=saved)


def test_presampled_box_is_what_whole_volumes_have_there(network, store):
    source = PresampledBoxes(network, store, np.array([1]), size=(2, 1, 1))
    source.encode()
    batch = source.draw(torch.Generator().manual_seed(4))
    volumes = store.load(1)
    fine, labels = network.to_slices(volumes.fine), network.to_slices(volumes.labels)
    coarse = network.to_slices(volumes.coarse)
    (tokens,) = {tuple(t.shape[1:4]) for t in batch.tokens}
    assert tokens == (2, 1, 1)
    every = network.tokens(coarse, volumes.encoder_present)
    patch = network.patch_size
    found = [
        (slab, row, column)
        for slab, row, column in np.ndindex(*every[0].shape[1:4])
        if torch.allclose(
            every[0][0, slab, row, column], batch.tokens[0][0, 0], atol=2e-3
        )
    ]
    (slab, row, column), *_ = found
    box = (
        slice(4 * slab, 4 * slab + 8),
        slice(2 * patch * row, 2 * patch * (row + 1)),
        slice(2 * patch * column, 2 * patch * (column + 1)),
    )
    assert torch.equal(batch.voxels, fine[..., *box])
    assert torch.equal(batch.labels.float(), labels[..., *box])
    half = tuple(slice(part.start // 2, part.stop // 2) for part in box)
    assert torch.equal(batch.foreground, coarse[:, -1:, *half])
    assert torch.equal(batch.log_prior, network.log_prior[..., *half])
    assert batch.labels.any()


def test_encoder_learns_at_a_tenth_of_the_decoder_s_rate(network):
    plan = replace(PLAN, freeze_encoder=False, n_steps=20)
    optimizer, schedule = training._make_optimizer(network, plan)
    for _ in range(plan.n_steps):
        decoder, encoder = optimizer.param_groups
        assert encoder["lr"] == pytest.approx(0.1 * decoder["lr"])
        optimizer.step()
        schedule.step()
    sizes = [sum(p.numel() for p in group["params"]) for group in (decoder, encoder)]
    modules = (network.decoder, network.encoder)
    assert sizes == [sum(p.numel() for p in m.parameters()) for m in modules]


@pytest.mark.parametrize("n_steps", [1, 2, 9, 10, 19])
def test_schedule_has_a_rate_for_any_number_of_steps(network, n_steps):
    optimizer, schedule = training._make_optimizer(
        network, replace(PLAN, n_steps=n_steps)
    )
    for _ in range(n_steps):
        assert 0 < optimizer.param_groups[0]["lr"] <= PLAN.learning_rate
        optimizer.step()
        schedule.step()


def test_frozen_encoder_stays_as_it_is(network, store):
    before = state_of(network.encoder)
    train(network, store, SPLIT, PLAN)
    assert is_same(network.encoder, before)


def test_frozen_encoder_is_not_written_to(network, store):
    # It may be in use elsewhere.
    before = [value._version for value in network.encoder.parameters()]
    result = train(network, store, HELD_OUT, PLAN)
    assert result.validation_scores
    assert [value._version for value in network.encoder.parameters()] == before


def test_best_encoder_is_kept_with_its_decoder(network, store, monkeypatch):
    scores, states = iter([0.9, 0.1, 0.2, 0.3]), []

    def check(net, *_):
        states.append(state_of(net.encoder))
        return next(scores)

    monkeypatch.setattr(training, "_validate", check)
    plan = replace(PLAN, freeze_encoder=False, n_steps=20)
    train(network, store, HELD_OUT, plan)
    assert is_same(network.encoder, states[0])
    assert not is_same(network.encoder, states[-1])


def test_encoder_is_trained_if_not_frozen(network, store):
    before = state_of(network.encoder)
    plan = replace(PLAN, freeze_encoder=False, batch_size=2)
    train(network, store, SPLIT, plan)
    assert not is_same(network.encoder, before)


def test_best_weights_of_the_held_out_subjects_are_kept(network, store, monkeypatch):
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.4])
    states = []

    def check(net, *_):
        states.append(state_of(net.decoder))
        return next(scores)

    monkeypatch.setattr(training, "_validate", check)
    plan = replace(PLAN, n_steps=20)
    result = train(network, store, HELD_OUT, plan)
    assert result.validation_scores == [0.1, 0.9, 0.2, 0.3, 0.4]
    assert len(result.loss_curve) == 10
    assert is_same(network.decoder, states[1])


@pytest.mark.parametrize(
    ("n_steps", "expected"),
    [(3, [1, 2, 3]), (13, [2, 4, 6, 8, 10, 12, 13]), (150, range(15, 151, 15))],
)
def test_last_weights_may_be_the_best(n_steps, expected):
    steps = range(1, n_steps + 1)
    assert [n for n in steps if training._is_validation(n, n_steps)] == [*expected]


def test_validation_score_is_the_dice_of_the_label_maps(network, store):
    with torch.no_grad():
        network.decoder.head.weight.zero_()
        network.decoder.head.bias.copy_(torch.tensor([-9.0, 9.0]))
    # Class 1 is predicted everywhere.
    truth = store.load(1).labels
    fraction = float(truth.mean())
    expected = 2 * fraction / (1 + fraction)
    score = training._validate(network, store, np.array([1]))
    assert score == pytest.approx(expected, rel=1e-4)


def test_training_that_diverges_stops(network, store, monkeypatch):
    def diverge(logits, _):
        return logits.sum() * float("nan")

    monkeypatch.setattr(training, "dice_ce_loss", diverge)
    with pytest.raises(TrainingError, match="step 0: expected a finite loss"):
        train(network, store, SPLIT, PLAN)


def test_many_classes_make_crops_thinner(network, store):
    many_classes = replace(store, classes=tuple(range(4000)))
    rows = SPLIT.train
    few = DrawnCrops(network, store, rows, freeze_encoder=True)._sizes()
    many = DrawnCrops(network, many_classes, rows, freeze_encoder=True)._sizes()
    assert (few.n_slabs, many.n_slabs) == (4, 1)


def split(has_class, fraction, *, groups=None, seed=0):
    has_class = np.array(has_class, bool)
    groups = np.arange(len(has_class)) if groups is None else np.array(groups)
    return split_subjects(has_class, groups, fraction, np.random.RandomState(seed))


def test_no_more_are_held_out_than_are_validated():
    train_rows, held_out = split(np.ones((40, 2)), 0.5)
    assert (len(train_rows), len(held_out)) == (36, 4)
    assert sorted([*train_rows, *held_out]) == list(range(40))


def test_last_subject_of_a_class_is_not_held_out():
    has_class = np.ones((5, 3))
    has_class[:, 2] = [0, 0, 1, 0, 0]
    for seed in range(10):
        _, held_out = split(has_class, 0.8, seed=seed)
        assert len(held_out) == 4
        assert 2 not in held_out


def test_subject_without_foreground_is_not_held_out():
    has_class = np.array([[1, 1], [1, 0], [1, 1], [1, 0]])
    for seed in range(10):
        _, held_out = split(has_class, 0.8, seed=seed)
        assert set(held_out) < {0, 2}
        assert len(held_out) == 1


def test_no_participant_is_on_both_sides():
    groups = np.repeat(np.arange(12), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 9])
    for seed in range(30):
        train_rows, held_out = split(np.ones((30, 2)), 0.3, groups=groups, seed=seed)
        assert 1 <= len(held_out) <= 4
        assert not set(groups[train_rows]) & set(groups[held_out])
        # Only further scans of held-out participants are in neither.
        assert set(groups[train_rows]) | set(groups[held_out]) == set(range(12))


def test_fraction_is_one_of_participants():
    groups = np.repeat(np.arange(5), 4)
    train_rows, held_out = split(np.ones((20, 2)), 0.1, groups=groups)
    assert (len(train_rows), len(held_out)) == (20, 0)
    train_rows, held_out = split(np.ones((20, 2)), 0.2, groups=groups)
    assert (len(train_rows), len(held_out)) == (16, 4)


def test_scan_without_foreground_of_a_held_out_participant_is_not_validated():
    has_class = np.array([[1, 1], [1, 0], [1, 1], [1, 0]])
    for seed in range(4):
        train_rows, held_out = split(has_class, 0.5, groups=[0, 0, 1, 1], seed=seed)
        assert (train_rows.tolist(), held_out.tolist()) in (
            ([2, 3], [0]),
            ([0, 1], [2]),
        )
