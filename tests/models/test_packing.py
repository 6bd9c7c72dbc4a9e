import pytest
import torch

from brainfeat.models.packing import Packing


@pytest.fixture
def foreground(rng):
    rates = rng.random((2, 5, 1, 1))
    return torch.from_numpy(rng.random((2, 5, 4, 3)) < rates)


def test_unpacking_restores_tokens_and_zeros_the_background(foreground):
    foreground[1, 2] = False
    packing = Packing.of(foreground, 2)
    prefix, patches = torch.randn(2, 5, 2, 7), torch.randn(2, 5, 4, 3, 7)
    prefix = prefix * foreground.flatten(2).any(2)[..., None, None]
    patches = patches * foreground[..., None]
    rows = packing.pack(
        prefix.flatten(0, 1)[packing.slabs], patches.flatten(0, 3)[packing.patches]
    )
    ours, theirs = packing.unpack(rows), (prefix, patches)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert torch.equal(packing.spread(rows), patches)


def test_groups_are_rows_of_whole_slabs_in_the_order_of_their_patches(foreground):
    packing = Packing.of(foreground, 1)
    lengths = 1 + foreground.flatten(0, 1).flatten(1).sum(1)
    assert packing.groups[-1].stop == len(packing.row_slabs)
    listed = iter(packing.slabs.tolist())
    for group in packing.groups:
        for index in range(group.n_slabs):
            slab = next(listed)
            start = group.start + index * group.length
            held = packing.row_slabs[start : start + group.length]
            assert (packing.slabs[held] == slab).all()
            n_tokens = lengths[slab]
            assert group.length * 0.85 <= n_tokens <= group.length
            if group.key_mask is not None:
                assert group.key_mask[index].sum() == n_tokens
                assert group.key_mask[index, 0, 0, :n_tokens].all()
            patches = torch.nonzero(foreground.flatten(0, 1)[slab].flatten())[:, 0]
            mine = packing.patches // 12 == slab
            assert torch.equal(packing.patches[mine] % 12, patches)
            rows = torch.arange(start + 1, start + n_tokens)
            assert torch.equal(packing.patch_rows[mine], rows)


def test_full_slabs_are_one_group_without_padding():
    packing = Packing.of(torch.ones(2, 5, 4, 3, dtype=torch.bool), 1)
    (group,) = packing.groups
    assert (group.start, group.n_slabs, group.length) == (0, 10, 13)
    assert group.key_mask is None
