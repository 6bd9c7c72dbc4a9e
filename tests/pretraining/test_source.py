from dataclasses import fields, replace

import pytest
import torch

from brainfeat.pretraining.source import SubjectBatch


@pytest.fixture
def batch(source):
    return source.draw(0, 5, seed=0)


def test_shape_is_that_of_the_volumes(batch, source):
    assert batch.shape == source.shape


@pytest.mark.parametrize("has_targets", [True, False])
def test_all_parts_move_to_a_device(batch, has_targets):
    batch = batch if has_targets else replace(batch, targets=None)
    moved = batch.to(torch.device("meta"))
    for field in fields(SubjectBatch):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if before is None:
            assert after is None
        else:
            assert after.device.type == "meta"
            assert after.shape == before.shape
            assert after.dtype == before.dtype
            assert before.device.type == "cpu"


@pytest.mark.parametrize("has_targets", [True, False])
def test_split_keeps_all_subjects_in_order(source, has_targets):
    batch = source.draw(0, 6, seed=0)
    batch = batch if has_targets else replace(batch, targets=None)
    parts = batch.split(3)
    assert [len(part.volumes) for part in parts] == [2, 2, 2]
    for field in fields(SubjectBatch):
        expected = getattr(batch, field.name)
        values = [getattr(part, field.name) for part in parts]
        if expected is None:
            assert values == [None] * 3
        else:
            assert torch.equal(torch.cat(values), expected)
