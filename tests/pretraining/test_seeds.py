from itertools import permutations, product

import torch

from brainfeat.pretraining.source import derive_seed, seeded_generator


def test_seed_depends_on_every_number_and_on_their_order():
    seeds = {derive_seed(*numbers) for numbers in product(range(12), repeat=3)}
    assert len(seeds) == 12**3
    assert len({derive_seed(*numbers) for numbers in permutations((3, 1, 4, 7))}) == 24


def test_seed_fits_into_63_bits_and_can_be_mixed_again():
    seeds = [derive_seed(number, 5) for number in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert derive_seed(max(seeds), 1) != derive_seed(max(seeds), 2)


def test_seed_is_the_same_in_every_run():
    assert derive_seed(0, 1, 2) == 1535930435702422785


def test_generators_of_the_same_numbers_draw_the_same():
    first, again, other = (
        torch.rand(4, generator=seeded_generator(*numbers))
        for numbers in ((3, 8), (3, 8), (8, 3))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_generator_does_not_change_the_global_one():
    torch.manual_seed(6)
    expected = torch.rand(3)
    torch.manual_seed(6)
    torch.rand(5, generator=seeded_generator(1))
    assert torch.equal(torch.rand(3), expected)
