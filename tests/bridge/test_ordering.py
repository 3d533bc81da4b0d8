"""The order of a sub-epoch against RETURNN's own code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from returnn_bridge.ordering import _empty_dataset, sub_epoch_order
from returnn_bridge.shuffle import SMALL, shuffled

ORDERS = [
    "laplace",
    "laplace:5",
    "laplace:300",
    "laplace:.10",
    "laplace:.1000",
    "laplace:.10:2",
    "random",
    "sorted",
    "default",
]


@pytest.mark.parametrize("ordering", ORDERS)
@pytest.mark.parametrize(
    "more",
    [{}, {"partition_epoch": 4}, {"fixed_random_seed": 3}, {"random_seed_offset": 5}, {"repeat_epoch": 2}],
    ids=str,
)
def test_order_is_returnns(ordering, more):
    opts = {
        "class": "LmDataset",
        "corpus_file": ["a.txt"],
        "orth_vocab": {"class": "SentencePieces", "model_file": "m"},
        "seq_ordering": ordering,
        **more,
    }
    for size in (1, 7, 230):
        lengths = np.random.default_rng(size).integers(1, 40, size).astype(np.int32)
        for shard in ((0, 1), (0, 3), (2, 3)):
            for sub_epoch in (1, 2, 4, 9):
                expected = _empty_dataset(opts, shard).get_seq_order_for_epoch(sub_epoch, size, lengths.__getitem__)
                found = sub_epoch_order(opts, lengths, sub_epoch=sub_epoch, shard=shard)
                assert found.tolist() == list(expected)


def test_tags_choose_nothing_here():
    opts = {"class": "LmDataset", "corpus_file": "a", "orth_vocab": {"class": "SentencePieces", "model_file": "m"}}
    with pytest.raises(ValueError, match="need the tags"):
        sub_epoch_order({**opts, "unique_seq_tags": True}, np.ones(3), sub_epoch=1)


@given(
    seed=st.integers(0, 2**32 - 1), size=st.integers(1, 3000), small=st.integers(0, 6), block=st.integers(1, 400)
)  # up to all steps of a block share their places
def test_a_shuffle_in_blocks_is_that_of_numpy(seed, size, small, block):
    found = shuffled(seed, size, small=2**small, block=block)
    assert np.array_equal(found, np.random.RandomState(seed).permutation(size))


@pytest.mark.parametrize("size", [SMALL, SMALL + 1, 2 * SMALL, 3 * SMALL + 12345])
def test_a_long_shuffle_is_that_of_numpy(size):
    assert np.array_equal(shuffled(size, size), np.random.RandomState(size).permutation(size))
