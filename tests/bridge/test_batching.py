"""Batches are RETURNN's, bit for bit, and every one of them is a place to resume from."""

from __future__ import annotations

import gzip
import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import random_text
from returnn_bridge.batching import Position, ReturnnBatches, TokenBatch
from returnn_bridge.datasets import init_dataset, lm_dataset_dict
from returnn_bridge.token_store import build_store
from returnn_bridge.vocab import Vocab

REUSE = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def opts(text_file: Path, vocab_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """600 + 150 sentences, a plain and a zipped file, four sub-epochs; bins small enough that lengths go up and down."""
    zipped = tmp_path_factory.mktemp("zipped") / "more.txt.gz"
    with gzip.open(zipped, "wt") as file:
        file.write(random_text(150, seed=1))
    return lm_dataset_dict([text_file, zipped], vocab_folder, partition_epoch=4, seq_ordering="laplace:.50")


def returnn_batches(
    opts: dict[str, Any], num_tokens: int, epoch: int, *, batch_size: int, max_seqs: int, max_seq_length: int | None
) -> Iterator[dict[str, Any]]:
    """What RETURNN's own trainer would feed for a sub-epoch."""
    from returnn.torch.data.pipeline import BatchingIterDataPipe, LenFilterDataPipe, collate_batch
    from returnn.torch.data.returnn_dataset_wrapper import ReturnnDatasetIterDataPipe

    dataset = init_dataset(opts, num_tokens=num_tokens)
    pipe = ReturnnDatasetIterDataPipe(dataset, reset_callback=lambda: dataset.init_seq_order(epoch=epoch))
    pipe = LenFilterDataPipe(pipe, max_seq_length={"data": max_seq_length} if max_seq_length else None)
    for batch in BatchingIterDataPipe(pipe, batch_size=batch_size, max_seqs=max_seqs):
        yield collate_batch(batch)


def same(ours: TokenBatch, other: TokenBatch) -> bool:
    return (
        torch.equal(ours.tokens, other.tokens)
        and torch.equal(ours.lengths, other.lengths)
        and (ours.seq_tags, ours.position, ours.num_dropped) == (other.seq_tags, other.position, other.num_dropped)
    )


@pytest.mark.parametrize("limits", [(300, 16, None), (300, 16, 20), (60, 256, 30), (10, 7, None), (100_000, 1, 25)])
def test_batches_equal_those_of_returnns_pipes(opts, vocab, limits):
    batch_size, max_seqs, max_seq_length = limits
    rule = {"batch_size": batch_size, "max_seqs": max_seqs, "max_seq_length": max_seq_length}
    for epoch in (1, 2, 4, 5):
        ours = list(ReturnnBatches(opts, num_tokens=vocab.num_pieces, start=Position(epoch, 0), **rule))
        theirs = list(returnn_batches(opts, vocab.num_pieces, epoch, **rule))
        assert len(ours) == len(theirs)
        for own, other in zip(ours, theirs):
            assert own.tokens.dtype == own.lengths.dtype == torch.int64
            assert torch.equal(own.tokens, other["data"].to(torch.int64))
            assert torch.equal(own.lengths, other["data:seq_len"].to(torch.int64))
            assert own.seq_tags == tuple(str(tag) for tag in other["seq_tag"])


@REUSE
@given(st.integers(1, 2000), st.integers(1, 40), st.one_of(st.none(), st.integers(12, 40)))
def test_every_sentence_once_in_order_within_the_limits(opts, vocab, batch_size, max_seqs, max_seq_length):
    rule = {"batch_size": batch_size, "max_seqs": max_seqs, "max_seq_length": max_seq_length}
    batches = list(ReturnnBatches(opts, num_tokens=vocab.num_pieces, start=Position(2, 0), **rule))
    singly = list(ReturnnBatches(opts, num_tokens=vocab.num_pieces, start=Position(2, 0), max_seqs=1))
    kept = [one for one in singly if max_seq_length is None or int(one.lengths) <= max_seq_length]
    assert [tag for batch in batches for tag in batch.seq_tags] == [one.seq_tags[0] for one in kept]
    assert sum(batch.num_dropped for batch in batches) == len(singly) - len(kept)
    rows = [row[mask].tolist() for batch in batches for row, mask in zip(batch.tokens, batch.valid)]
    assert rows == [one.tokens[0].tolist() for one in kept]
    for batch in batches:
        assert len(batch.lengths) <= max_seqs
        assert batch.tokens.numel() <= batch_size or len(batch.lengths) == 1
        assert batch.tokens.shape[1] == int(batch.lengths.max())
        assert not batch.tokens[~batch.valid].any()


@REUSE
@given(st.integers(0, 70), st.sampled_from([(300, 16, 20), (300, 16, None), (64, 5, 18)]))
def test_resume_at_any_batch_gives_the_next_batches_bit_for_bit(opts, vocab, cut, limits):
    rule = dict(zip(("batch_size", "max_seqs", "max_seq_length"), limits)) | {
        "num_tokens": vocab.num_pieces,
        "endless": True,
    }
    whole = list(itertools.islice(ReturnnBatches(opts, **rule), cut + 12))
    assert whole[-1].position.sub_epoch >= 1 + (cut > 60)
    resumed = ReturnnBatches(opts, start=whole[cut].position, **rule)
    assert all(same(own, other) for own, other in zip(whole[cut + 1 :], resumed))


def test_resume_at_the_last_batch_of_a_sub_epoch_starts_the_next(opts, vocab):
    for max_seq_length in (None, 15):  # 15: over-long ones after the last batch are counted once
        rule = {"num_tokens": vocab.num_pieces, "max_seqs": 16, "max_seq_length": max_seq_length}
        first, second = (list(ReturnnBatches(opts, start=Position(epoch, 0), **rule)) for epoch in (1, 2))
        assert first[-1].position == Position(2, 0)
        endless = list(itertools.islice(ReturnnBatches(opts, endless=True, **rule), len(first) + len(second)))
        assert all(same(own, other) for own, other in zip(endless, first + second))


def test_four_sub_epochs_are_one_pass_and_the_next_pass_has_another_order(opts, vocab):
    def tags(epoch: int) -> list[str]:
        batches = ReturnnBatches(opts, num_tokens=vocab.num_pieces, start=Position(epoch, 0))
        return [tag for batch in batches for tag in batch.seq_tags]

    first = [tag for epoch in (1, 2, 3, 4) for tag in tags(epoch)]
    assert sorted(first) == sorted(f"line-{index}" for index in range(750))
    assert first[: len(tags(1))] != tags(5)


def test_shards_in_turn_are_the_whole_pass(opts, vocab):
    def tags(epoch: int, shard: tuple[int, int]) -> list[str]:
        batches = ReturnnBatches(opts, num_tokens=vocab.num_pieces, start=Position(epoch, 0), shard=shard)
        return [tag for batch in batches for tag in batch.seq_tags]

    # Rounding may move a sentence between sub-epochs (4 parts or 12), never out of the pass or out of its place.
    alone = [tag for epoch in (1, 2, 3, 4) for tag in tags(epoch, (0, 1))]
    assert [tag for epoch in (1, 2, 3, 4) for index in range(3) for tag in tags(epoch, (index, 3))] == alone


def test_a_shard_resumes_too(opts, vocab):
    rule = {"num_tokens": vocab.num_pieces, "max_seqs": 10, "endless": True, "shard": (1, 3)}
    whole = list(itertools.islice(ReturnnBatches(opts, **rule), 20))
    for cut in (2, 6, 7, 13):
        assert all(
            same(own, other)
            for own, other in zip(whole[cut + 1 :], ReturnnBatches(opts, start=whole[cut].position, **rule))
        )


def test_ids_are_those_of_the_vocabulary(opts, vocab: Vocab, text_file):
    lines = text_file.read_text().splitlines() + random_text(150, seed=1).splitlines()
    for batch in ReturnnBatches(opts, num_tokens=vocab.num_pieces):
        for row, mask, tag in zip(batch.tokens, batch.valid, batch.seq_tags):
            assert row[mask].tolist() == vocab.encode(lines[int(tag.removeprefix("line-"))])


def test_datasets_that_can_not_jump_resume_too(opts, vocab, tmp_path):
    """HDFDataset and MetaDataset, which have no order of ours to start from."""
    from returnn.datasets.hdf import SimpleHDFWriter

    first = list(ReturnnBatches(opts, num_tokens=vocab.num_pieces, max_seqs=16))
    writer = SimpleHDFWriter(str(tmp_path / "tokens.hdf"), dim=vocab.num_pieces, ndim=1)
    for batch in first:
        writer.insert_batch(batch.tokens.numpy().astype("int32"), batch.lengths.tolist(), list(batch.seq_tags))
    writer.close()
    hdf = {"class": "HDFDataset", "files": [str(tmp_path / "tokens.hdf")], "seq_ordering": "default"}
    text = {**opts, "seq_ordering": "random", "partition_epoch": 2}
    meta = {
        "class": "MetaDataset",
        "datasets": {"lm": text},
        "data_map": {"data": ["lm", "data"]},
        "seq_order_control_dataset": "lm",
    }
    assert all(
        same(own, other)
        for own, other in zip(ReturnnBatches(hdf, num_tokens=vocab.num_pieces, max_seqs=16), first, strict=True)
    )
    for other in (hdf, meta):
        rule = {"num_tokens": vocab.num_pieces, "max_seqs": 16, "max_seq_length": 20, "endless": True}
        whole = list(itertools.islice(ReturnnBatches(other, **rule), 30))
        assert whole[-1].position.sub_epoch >= 2
        for cut in (0, 7, 13):
            assert all(
                same(own, back)
                for own, back in zip(whole[cut + 1 :], ReturnnBatches(other, start=whole[cut].position, **rule))
            )


def test_iterating_again_and_at_the_same_time_and_after_pickling_gives_the_same(opts, vocab):
    batches = ReturnnBatches(opts, num_tokens=vocab.num_pieces, max_seqs=32)
    first = list(batches)
    for pair in zip(batches, batches, pickle.loads(pickle.dumps(batches)), first, strict=True):
        assert all(same(own, pair[0]) for own in pair)
    half = iter(batches)
    next(half)
    del half  # given up half way
    assert all(same(own, other) for own, other in zip(batches, first, strict=True))


def test_a_sub_epoch_without_sentences_is_an_error(opts, vocab):
    endless = ReturnnBatches(opts, num_tokens=vocab.num_pieces, max_seq_length=1, endless=True)
    with pytest.raises(
        ValueError,
        match=r"sub-epoch 1 of LmDataset \(shard 1 of 1\): no sentence .* 188 are longer than max_seq_length 1",
    ):
        next(iter(endless))


def test_an_impossible_position_is_an_error(opts, vocab):
    with pytest.raises(ValueError, match="seqs_done=188.* has 188 sequences"):
        next(iter(ReturnnBatches(opts, num_tokens=vocab.num_pieces, start=Position(1, 188))))
    with pytest.raises(ValueError, match="counts from 1"):
        Position(0, 0)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"max_seqs": 0}, {"max_seq_length": 0}, {"shard": (2, 2)}, {"num_tokens": 0}]
)
def test_impossible_limits_are_errors(opts, wrong):
    with pytest.raises(ValueError, match="expected"):
        ReturnnBatches(opts, **({"num_tokens": 48} | wrong))


def test_another_vocabulary_is_an_error(opts, vocab):
    with pytest.raises(
        ValueError, match=f"encodes with {vocab.num_pieces} pieces; expected the {vocab.num_pieces + 1}"
    ):
        next(iter(ReturnnBatches(opts, num_tokens=vocab.num_pieces + 1)))


def test_an_id_outside_the_vocabulary_names_the_sentence(opts, vocab):
    batches = ReturnnBatches(opts, num_tokens=vocab.num_pieces)
    next(iter(batches))
    batches.num_tokens = vocab.num_pieces // 2  # as if a data set lied about its pieces
    with pytest.raises(ValueError, match=rf"line-\d+: token ids .* expected 0 .. {vocab.num_pieces // 2 - 1}"):
        list(batches)


def test_windows_of_long_sentences_are_parts_of_them_and_change_with_the_sub_epoch(opts, vocab, tmp_path, text_file):
    """Nothing is lost, short sentences stay as they are, and a resume, or a token store, gives the same windows."""
    rule = {"num_tokens": vocab.num_pieces, "batch_size": 300, "max_seqs": 16, "endless": True}
    limit, seen = 9, {}
    whole = itertools.islice(ReturnnBatches(opts, **rule, max_seq_length=None), 200)
    texts = {tag: row for batch in whole for tag, row in rows_of(batch)}
    stream = ReturnnBatches(opts, **rule, max_seq_length=limit, crop=5)
    batches = list(itertools.islice(stream, 200))
    for batch in batches:
        assert batch.num_dropped == 0
        for tag, row in rows_of(batch):
            text = texts.get(tag, row)
            starts = [start for start in range(len(text) - len(row) + 1) if text[start : start + len(row)] == row]
            assert starts and len(row) == min(len(text), limit)
            seen.setdefault(tag, set()).add(tuple(row))
    assert max(map(len, seen.values())) > 1, "another window in another pass"
    again = ReturnnBatches(opts, **rule, max_seq_length=limit, crop=5, start=batches[40].position)
    assert all(same(ours, other) for ours, other in zip(itertools.islice(again, 20), batches[41:]))
    other = ReturnnBatches(opts, **rule, max_seq_length=limit, crop=6)
    assert not all(same(ours, theirs) for ours, theirs in zip(itertools.islice(other, 20), batches))
    store = build_store(opts["corpus_file"], opts["orth_vocab"]["model_file"], tmp_path / "store.hdf")
    stored = ReturnnBatches(opts, **rule, max_seq_length=limit, crop=5, store=str(store.path))
    assert all(same(ours, theirs) for ours, theirs in zip(itertools.islice(stored, 60), batches))
    with pytest.raises(ValueError, match="crop without max_seq_length"):
        ReturnnBatches(opts, **rule, crop=5)


def rows_of(batch: TokenBatch) -> list[tuple[str, list[int]]]:
    return [
        (tag, row[:length]) for tag, row, length in zip(batch.seq_tags, batch.tokens.tolist(), batch.lengths.tolist())
    ]
