from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainfeat.exceptions import MissingDependencyError, TrainingError
from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.segmentation import training
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.store import LabelledStore
from brainfeat.segmentation.training import TrainingPlan, train
from brainfeat.slabs.grid import SlabGrid

SHAPE = (16, 24, 8)
PLAN = TrainingPlan(
    n_steps=6,
    learning_rate=1e-2,
    batch_size=1,
    freeze_encoder=True,
    hide_modalities=False,
    seed=0,
    train=np.array([0]),
    held_out=np.array([], dtype=np.int64),
)


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
        n_classes=2, n_modalities=1, embed_dim=24, n_depths=1, width=4
    )
    space = SegmentationSpace(
        Preprocessor(shape=SHAPE, spacing=2.0), ("T1w", "T2w", "FLAIR"), ("T1w",)
    )
    return SegmentationNetwork(
        encoder=checkpoint.build_encoder(),
        decoder=SegmentationDecoder(config),
        prior=torch.full((2, 8, 12, 4), 0.5),
        space=space,
        grid=SlabGrid(thickness=2),
        blocks=(1,),
        device=torch.device("cpu"),
    )


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def is_same(module, state):
    now = module.state_dict()
    return all(torch.equal(now[name], value) for name, value in state.items())


def test_loss_falls(network, store):
    told = []
    plan = replace(PLAN, n_steps=25)
    result = train(network, store, plan, on_step=lambda n, _: told.append(n))
    assert np.mean(result.loss_curve[-5:]) < 0.8 * np.mean(result.loss_curve[:5])
    assert told == [*range(1, 26)]
    assert result.validation_scores == []
    assert not network.decoder.training


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
    train(network, store, PLAN, on_step=lambda *_: None)
    assert is_same(network.encoder, before)


def test_frozen_encoder_is_not_even_written(network, store):
    # Others may be using it.
    before = [value._version for value in network.encoder.parameters()]
    plan = replace(PLAN, held_out=np.array([1]))
    assert train(network, store, plan, on_step=lambda *_: None).validation_scores
    assert [value._version for value in network.encoder.parameters()] == before


def test_best_encoder_is_kept_with_its_decoder(network, store, monkeypatch):
    scores, states = iter([0.9, 0.1, 0.2, 0.3]), []

    def check(net, *_):
        states.append(state_of(net.encoder))
        return next(scores)

    monkeypatch.setattr(training, "_check", check)
    plan = replace(PLAN, freeze_encoder=False, n_steps=20, held_out=np.array([1]))
    train(network, store, plan, on_step=lambda *_: None)
    assert is_same(network.encoder, states[0])
    assert not is_same(network.encoder, states[-1])


def test_encoder_learns_if_asked_to(network, store):
    before = state_of(network.encoder)
    plan = replace(PLAN, freeze_encoder=False, batch_size=2)
    train(network, store, plan, on_step=lambda *_: None)
    assert not is_same(network.encoder, before)


def test_best_weights_of_the_held_out_subjects_are_kept(network, store, monkeypatch):
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.4])
    states = []

    def check(net, *_):
        states.append(state_of(net.decoder))
        return next(scores)

    monkeypatch.setattr(training, "_check", check)
    plan = replace(PLAN, n_steps=20, held_out=np.array([1]))
    result = train(network, store, plan, on_step=lambda *_: None)
    assert result.validation_scores == [0.1, 0.9, 0.2, 0.3, 0.4]
    assert len(result.loss_curve) == 10
    assert is_same(network.decoder, states[1])


@pytest.mark.parametrize(
    ("n_steps", "expected"),
    [(3, [1, 2, 3]), (13, [2, 4, 6, 8, 10, 12, 13]), (150, range(15, 151, 15))],
)
def test_last_weights_may_be_the_best(n_steps, expected):
    steps = range(1, n_steps + 1)
    assert [n for n in steps if training._is_check(n, n_steps)] == [*expected]


def test_held_out_dice_is_that_of_the_label_maps(network, store):
    with torch.no_grad():
        network.decoder.head.weight.zero_()
        network.decoder.head.bias.copy_(torch.tensor([-9.0, 9.0]))
    # All is class one.
    truth = store.load(1).labels
    share = float(truth.mean())
    expected = 2 * share / (1 + share)
    found = training._check(network, store, np.array([1]))
    assert found == pytest.approx(expected, rel=1e-4)


def test_training_that_diverges_stops(network, store, monkeypatch):
    def diverged(**_options):
        return lambda logits, _: logits.sum() * float("nan")

    losses = SimpleNamespace(DiceCELoss=diverged)
    monkeypatch.setattr(training, "import_monai", lambda _: losses)
    with pytest.raises(TrainingError, match="step 0: expected a finite loss"):
        train(network, store, PLAN, on_step=lambda *_: None)


def test_many_classes_make_stacks_thinner(network, store):
    few = training._stack_sizes(network, store)
    many = training._stack_sizes(network, replace(store, classes=tuple(range(4000))))
    assert (few.n_slabs, many.n_slabs) == (4, 1)


def test_missing_monai_names_the_extra(monkeypatch):
    def refuse(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(training, "import_module", refuse)
    with pytest.raises(MissingDependencyError, match=r"brainfeat\[segmentation\]"):
        training.import_monai("monai.losses")
