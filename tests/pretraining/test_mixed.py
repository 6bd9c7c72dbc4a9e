import pytest
import torch

from brainfeat.exceptions import ConfigError
from brainfeat.pretraining.mixed import MixedSource
from brainfeat.pretraining.source import PairedSource
from brainfeat.pretraining.trainer import train
from brainfeat.pretraining.views import DrawnViews


@pytest.fixture
def other(source):
    """Another source, whose targets are partly those of the first."""

    class Other(type(source)):
        targets = ("new", "third", "first")
        tissues, structures = ("new",), ("third", "second")
        target_weights = (0.25, 7.0, 7.0)

        def draw(self, step, n_subjects, *, seed, **options):
            return super().draw(step, n_subjects, seed=seed + 1000, **options)

    return Other()


def test_each_step_is_of_one_source_in_proportion_to_its_weight(source, other):
    mixed = MixedSource([source, other], [3.0, 1.0])
    chosen = []
    for step in range(60):
        batch = mixed.draw(step, 2, seed=5)
        volumes = [s.draw(step, 2, seed=5).volumes for s in (source, other)]
        is_same = [torch.equal(batch.volumes, v) for v in volumes]
        assert sum(is_same) == 1
        chosen.append(is_same.index(True))
    assert 5 < sum(chosen) < 25


def test_targets_of_one_name_are_one_and_others_are_unknown(
    source, other, small_config
):
    mixed = MixedSource([source, other])
    assert mixed.targets == ("first", "second", "third", "new")
    assert mixed.target_weights == (1.0, 0.5, 2.0, 0.25)
    assert mixed.tissues == source.tissues
    assert mixed.structures == ("new", "second")
    seen = set()
    for step in range(20):
        batch = mixed.draw(step, 2, seed=0)
        known = batch.known[0].tolist()
        own = source if known == [True, True, True, False] else other
        assert known[:1] + known[2:] == [True, True, own is other]
        seen.add(own)
        drawn = DrawnViews.draw(
            small_config.views,
            small_config.encoder,
            batch,
            step=step,
            generator=torch.Generator().manual_seed(step),
        )
        views = drawn.apply(batch, small_config.encoder).global_views
        plain = own.draw(step, 2, seed=0)
        expected = drawn.apply(plain, small_config.encoder).global_views.targets
        for row, name in enumerate(own.targets):
            column = mixed.targets.index(name)
            torch.testing.assert_close(views.targets[..., column], expected[..., row])
    assert seen == {source, other}


def test_a_mixture_trains(source, other, small_config, tmp_path):
    mixed = MixedSource([source, other])
    checkpoint = train(mixed, small_config, output=tmp_path / "run", device="cpu")
    assert checkpoint.config.encoder.tissues == source.tissues
    assert isinstance(mixed, PairedSource)
    with pytest.raises(ConfigError, match=r"several acquisitions .* RandomSource"):
        MixedSource([source]).draw_pairs(0, 2, seed=0)


def test_sources_share_grid_and_modalities(source, other):
    type(other).shape = (4, 4, 4)
    with pytest.raises(ConfigError, match=r"one of shape \(12, 16, 8\).* \(4, 4, 4\)"):
        MixedSource([source, other])
