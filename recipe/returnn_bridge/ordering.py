"""The order of RETURNN's datasets for any number of sentences.

    sub_epoch_order(lm_dataset_opts, lengths, sub_epoch=3, shard=(0, 1))        # [n] places of the sentences, int64

RETURNN sorts a whole pass over the corpus at the start of every sub-epoch and then takes a part of it. For its usual order by length
within shuffled bins, "laplace", only the bins of the part are sorted here, which makes 40 million sentences start in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from returnn_bridge.datasets import plain_opts

_OPTIONS = ("seq_ordering", "partition_epoch", "repeat_epoch", "fixed_random_seed", "random_seed_offset")


def sub_epoch_order(
    opts: Mapping[str, Any], lengths: NDArray[Any], *, sub_epoch: int, shard: tuple[int, int] = (0, 1)
) -> NDArray[np.int64]:
    """Places of the sentences of a sub-epoch (from 1), as the dataset of the dict `opts` orders sentences of these lengths [n].

    ValueError for options that choose sentences by their tags.
    """
    opts = plain_opts(opts)
    if opts.get("seq_list_filter_file") or opts.get("unique_seq_tags"):
        raise ValueError(
            "seq_list_filter_file and unique_seq_tags need the tags; expected an order by length or chance"
        )
    empty = _empty_dataset(opts, shard)
    if str(opts.get("seq_ordering", "")).startswith("laplace") and (empty.repeat_epoch or 1) == 1:
        return _laplace_part(empty, lengths, sub_epoch, shard)
    plain = np.asarray(lengths)
    plain = plain.view(np.ndarray)  # not a memory map: RETURNN recognises arrays by their class
    return np.asarray(empty.get_seq_order_for_epoch(sub_epoch, len(plain), plain.__getitem__), dtype=np.int64)


def _empty_dataset(opts: Mapping[str, Any], shard: tuple[int, int]) -> Any:
    """A dataset that holds nothing but its ordering options."""
    from returnn.datasets.basic import Dataset

    class Empty(Dataset):
        def supports_sharding(self) -> bool:
            return True

    empty = Empty(**{key: opts[key] for key in _OPTIONS if opts.get(key) is not None})
    empty.set_sharding(shard_index=shard[0], num_shards=shard[1])
    return empty


def _laplace_part(empty: Any, lengths: NDArray[Any], sub_epoch: int, shard: tuple[int, int]) -> NDArray[np.int64]:
    """RETURNN's "laplace[:BINS|:.SIZE[:FIXED]]": shuffle, cut into bins, sort each by length, up and down in turn."""
    size = len(lengths)
    arguments = str(empty.seq_ordering).split(":")[1:]
    if not arguments:
        bins = 2
    elif arguments[0].startswith("."):
        bins = max(size // int(arguments[0][1:]), 2)
    else:
        bins = int(arguments[0])
    seed = empty._get_random_seed_for_epoch(
        epoch=sub_epoch, num_epochs_fixed=int(arguments[1]) if len(arguments) > 1 else 1
    )
    shuffled = np.random.RandomState(seed).permutation(size)
    parts = (empty.partition_epoch or 1) * shard[1]
    part = (sub_epoch - 1) % (empty.partition_epoch or 1) * shard[1] + shard[0]
    whole, rest = divmod(size, parts)
    first = part * whole + min(part, rest)
    last = first + whole + (part < rest)
    found, start = _sorted_bins(shuffled, lengths, bins, first, last)
    return found[first - start : last - start]


def _sorted_bins(
    shuffled: NDArray[np.int64], lengths: NDArray[Any], bins: int, first: int, last: int
) -> tuple[NDArray[np.int64], int]:
    """The bins that hold the places first .. last - 1, each sorted, and the place of the first of them."""
    size = len(shuffled)
    ends = [number * size // bins for number in range(bins + 1)]
    found: list[NDArray[np.int64]] = []
    start = first
    for number in range(bins):
        if ends[number + 1] <= first or ends[number] >= last:
            continue
        if not found:
            start = ends[number]
        members = shuffled[ends[number] : ends[number + 1]]
        keys = lengths[members]
        found.append(members[np.argsort(-keys if number % 2 else keys, kind="stable")])
    return (np.concatenate(found) if found else shuffled[:0]), start
