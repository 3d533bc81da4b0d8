"""Packed rows for training: every token once and in order, and every batch a place to resume from."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from returnn_bridge.batching import Position, ReturnnBatches
from returnn_bridge.datasets import lm_dataset_dict
from returnn_bridge.packed_batches import PackedBatches
from returnn_bridge.packing import Packing, pack
from returnn_bridge.token_store import build_store

REUSE = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
PACKINGS = [Packing(16), Packing(16, insert_special=False), Packing(7, insert_eos=False), Packing(64)]


@pytest.fixture(scope="session")
def opts(text_file, vocab_folder):
    """600 documents in three sub-epochs."""
    return lm_dataset_dict([text_file], vocab_folder, partition_epoch=3, seq_ordering="random")


@pytest.fixture(scope="session")
def store(text_file, vocab_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "tokens.hdf"
    build_store([text_file], vocab_folder / "spm.model", out)
    return str(out)


def documents(opts, vocab, sub_epochs=(1,), **more):
    """The documents of sub-epochs, as single sentences come."""
    for sub_epoch in sub_epochs:
        rule = {"num_tokens": vocab.num_pieces, "start": Position(sub_epoch, 0), "max_seqs": 1, **more}
        for batch in ReturnnBatches(opts, **rule):
            yield batch.tokens[0].tolist()


def packed(opts, vocab, packing, **more):
    ids = {"bos_id": vocab.bos_id, "eos_id": vocab.eos_id, "num_tokens": vocab.num_pieces}
    return PackedBatches(opts, packing=packing, **ids, **{"batch_size": 5 * packing.length, **more})


def rows_of(batches):
    return [row for batch in batches for row in batch.tokens.tolist()]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_finite_stream_is_the_packed_documents(opts, vocab, packing):
    expected = pack(documents(opts, vocab), packing, bos_id=vocab.bos_id, eos_id=vocab.eos_id)
    batches = list(packed(opts, vocab, packing))
    assert rows_of(batches) == expected.rows
    assert batches[-1].left_over == expected.left_over
    assert not any(batch.left_over for batch in batches[:-1])
    assert batches[-1].position == Position(2, 0)
    assert all(batch.framed and (batch.lengths == packing.length).all() for batch in batches)
    assert {len(batch.tokens) for batch in batches[:-1]} == {5}, "full batches of 5 rows, a smaller one at the end"


@pytest.mark.parametrize("packing", PACKINGS)
def test_an_endless_stream_loses_no_token_at_the_ends_of_sub_epochs(opts, vocab, packing):
    whole = pack(documents(opts, vocab, (1, 2, 3, 4)), packing, bos_id=vocab.bos_id, eos_id=vocab.eos_id)
    batches = list(itertools.islice(packed(opts, vocab, packing, endless=True), len(whole.rows) // 5))
    assert rows_of(batches) == whole.rows[: 5 * len(batches)]
    assert {batch.position.sub_epoch for batch in batches} == {1, 2, 3, 4}


@pytest.mark.parametrize("stored", [False, True])
@REUSE
@given(st.data())
def test_every_batch_is_a_place_to_resume_from(opts, vocab, store, stored, data):
    packing = data.draw(st.sampled_from(PACKINGS))
    more = {"endless": True, "store": store if stored else None}
    taken = data.draw(st.integers(1, 60))
    before = list(itertools.islice(packed(opts, vocab, packing, **more), taken + 3))
    resumed = packed(opts, vocab, packing, start=before[taken - 1].position, **more)
    for expected, found in zip(before[taken:], itertools.islice(resumed, 3), strict=True):
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert (found.position, found.seq_tags) == (expected.position, expected.seq_tags)


def test_the_last_batch_of_a_sub_epoch_that_ends_with_a_row_is_the_start_of_the_next(vocab, vocab_folder, tmp_path):
    text = tmp_path / "even.txt"
    text.write_text("the king\n" * 8)
    size = len(vocab.encode("the king")) + 1
    opts = lm_dataset_dict([text], vocab_folder, seq_ordering="default")
    packing = Packing(2 * size, insert_special=False)
    stream = packed(opts, vocab, packing, batch_size=4 * size, endless=True)
    places = [batch.position for batch in itertools.islice(stream, 4)]
    assert places == [Position(1, 4), Position(2, 0), Position(2, 4), Position(3, 0)]
    assert next(iter(packed(opts, vocab, packing, start=places[1]))).position == Position(3, 0)


@pytest.mark.parametrize("packing", PACKINGS[:2])
def test_a_store_gives_the_same_batches(opts, vocab, store, packing):
    for shard in ((0, 1), (1, 2)):
        text, stored = (list(packed(opts, vocab, packing, store=path, shard=shard)) for path in (None, store))
        assert rows_of(text) == rows_of(stored)
        assert [batch.seq_tags for batch in text] == [batch.seq_tags for batch in stored]


def test_a_row_has_the_tag_of_the_document_that_it_begins_in(opts, vocab):
    packing = Packing(9, insert_special=False)
    sentences = ReturnnBatches(opts, num_tokens=vocab.num_pieces, max_seqs=1)
    tags = [tag for batch in sentences for tag in batch.seq_tags for _ in range(int(batch.lengths[0]) + 1)]
    found = [tag for batch in packed(opts, vocab, packing) for tag in batch.seq_tags]
    assert found == tags[: 9 * len(found) : 9]


def test_what_can_not_be_packed_is_refused(opts, vocab):
    with pytest.raises(ValueError, match=r"do not fill a packed row of 1000000; .*data.wrap=false"):
        list(packed(opts, vocab, Packing(1_000_000)))
    with pytest.raises(ValueError, match="rows of 2 tokens have no room"):
        Packing(2)
    with pytest.raises(ValueError, match="max_seq_length with packed rows"):
        packed(opts, vocab, Packing(16), max_seq_length=9)
    with pytest.raises(ValueError, match=r"token 5000: line-\d+ has \d+ tokens; expected the corpus"):
        next(iter(packed(opts, vocab, Packing(16), start=Position(1, 3, 5000))))
