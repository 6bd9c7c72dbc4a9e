import pytest
import torch
from torch.nn import functional as F

from brainfeat.models.stem import HierarchicalStem, SquareMerging


@pytest.fixture
def stem():
    torch.manual_seed(0)
    stem = HierarchicalStem(2, 3, embed_dim=16, patch_size=4)
    stem.reset_parameters()
    for parameter in stem.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return stem


def test_square_is_merged_from_its_own_pixels():
    merging = SquareMerging(3, 5)
    pixels = torch.randn(2, 4, 6, 3)
    square = pixels[1, 2:4, 4:6].flatten()  # row by row
    expected = merging.linear.weight @ square + merging.linear.bias
    assert merging(pixels).shape == (2, 2, 3, 5)
    torch.testing.assert_close(merging(pixels)[1, 1, 2], expected)


def test_token_is_a_sum_over_modalities_of_two_levels(stem):
    pixels = torch.randn(5, 6, 8, 12)
    tokens = stem(pixels)
    expected = 0.0
    for index, modality in enumerate(stem.modalities):
        first, gelu, second = modality
        slices = pixels[:, 3 * index : 3 * index + 3].permute(0, 2, 3, 1)
        assert isinstance(gelu, torch.nn.GELU)
        expected = expected + second(F.gelu(first(slices)))
    assert tokens.shape == (5, 2, 3, 16)
    torch.testing.assert_close(tokens, expected)


def test_token_depends_on_its_own_patch_only(stem):
    pixels = torch.randn(1, 6, 8, 12)
    changed = pixels.clone()
    changed[0, :, 4:8, 4:8] += 1
    differs = (stem(changed) != stem(pixels)).any(-1)[0]
    assert differs.nonzero().tolist() == [[1, 1]]


def test_missing_modality_adds_nothing(stem):
    pixels = torch.randn(2, 6, 4, 8)
    present = torch.tensor([[True, True], [True, False]])
    changed = pixels.clone()
    changed[1, 3:] = 7.0
    torch.testing.assert_close(stem(changed, present), stem(pixels, present))
    assert not torch.equal(stem(changed), stem(pixels))


def test_modality_of_no_image_is_skipped_unless_it_trains(stem):
    pixels = torch.randn(2, 6, 4, 8)
    present = torch.tensor([[True, False], [True, False]])
    calls = []
    stem.modalities[1].register_forward_hook(lambda *_: calls.append(1))
    trained = stem(pixels, present)
    assert calls
    calls.clear()
    with torch.inference_mode():
        torch.testing.assert_close(stem(pixels, present), trained.detach())
        assert not calls
        stem(pixels, present | torch.tensor([[False, True], [False, False]]))
    assert calls
