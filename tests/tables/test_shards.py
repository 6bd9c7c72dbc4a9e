import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainfeat.exceptions import InputError
from brainfeat.tables.shards import Shard


@given(st.integers(0, 50), st.integers(1, 60))
def test_shards_joined_in_order_are_the_whole(n_items, count):
    items = list(range(n_items))
    parts = [Shard(index, count).take(items) for index in range(1, count + 1)]
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "/4", "a/b", "1/4/2"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(InputError, match="expected I/N"):
        Shard.parse(text)


def test_a_shard_reads_as_it_is_written():
    assert str(Shard.parse("2/3")) == "2/3"
