"""`training.py speed`: tokens per second of our training step and of MDLM's code, on the same batches, in turn."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from originals.imports import drawing, imported
from originals.inputs import costly, relative
from originals.training import MdlmStep

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.foreign.mdlm_weights import network_weights
from returnn_bridge.batching import Position, TokenBatch
from returnn_bridge.vocab import Vocab
from training_parts.steps import OurStep, alternate, asked_batches, filled, network_size, num_tokens, row_slices


def speed(options: argparse.Namespace) -> None:
    """Print a Markdown table with a line for each size."""
    warnings.simplefilter("ignore")  # of theirs, about old names in torch
    torch.manual_seed(1)
    vocab = Vocab.load(options.vocab)
    batches = asked_batches(options, options.batches)
    print(
        f"{len(batches)} batches, {num_tokens(batches):,} pieces, {filled(batches):.0%} of the padded places filled; "
        f"{vocab.num_pieces} pieces in the vocabulary, {torch.get_num_threads()} thread(s)\n"
    )
    lines = [
        "| network | padded to | MDLM tokens/s | ours tokens/s | ratio | of single batches |",
        "|---|---|---:|---:|---:|---:|",
    ]
    with imported(options.original.resolve(), "diffusion") as (diffusion,):
        for name in options.size:
            size, timed = network_size(name), not options.no_time_conditioning
            theirs = MdlmStep(diffusion, size, vocab, time_conditioning=timed)
            ours = OurStep(size, vocab, time_conditioning=timed)
            ours.network.load_state_dict(network_weights(theirs.model.backbone.state_dict())[1])
            agree(theirs, ours, batches, name)
            places = {"longest of the batch": 0} | ({str(options.pad_to): options.pad_to} if options.pad_to else {})
            steps = [partial(padded_step, theirs, pad_to, options.rows) for pad_to in places.values()]
            *peers, own = alternate([*steps, partial(ours, rows=options.rows)], batches, options.repeats)
            rate = num_tokens(batches) / sum(own)
            for place, seconds in zip(places, peers):
                ratios = [a / b for a, b in zip(seconds, own)]
                peer = num_tokens(batches) / sum(seconds)
                lines.append(
                    f"| {name} | {place} | {peer:,.0f} | {rate:,.0f} | {rate / peer:.2f} |"
                    f" {min(ratios):.2f} to {max(ratios):.2f} |"
                )
    print("\n" + "\n".join(lines))


def padded_step(theirs: MdlmStep, pad_to: int, rows: int, batch: TokenBatch) -> float:
    """MDLM's step with all rows padded to the length of the batch, also if it is processed in parts."""
    return theirs.step(*theirs.collated(batch, pad_to), row_slices(batch, rows))


def agree(theirs: MdlmStep, ours: OurStep, batches: Sequence[TokenBatch], name: str) -> None:
    """Print how far the losses differ on sentences of equal length, with equal noise and without dropout."""
    batch = equal_rows(batches)
    rows, longest = batch.tokens.shape[0], batch.tokens.shape[1] + 2
    jitter, keep = torch.rand(rows), torch.rand(rows, longest)
    keep[:, 0] = keep[:, -1] = 2.0  # BOS and EOS stay
    draw = NoiseDraw((jitter / rows + torch.arange(rows) / rows) % 1, keep.flatten())
    theirs.model.eval(), ours.network.eval()
    ids, mask = theirs.collated(batch)
    sentences, found = ours.framed(batch), {}
    for precision in ("32", "bf16"):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            with drawing(jitter, keep):
                peer = theirs.model._loss(ids, mask).nlls
            own = ours.family.training_loss(ours.network, sentences, draw).loss
        found[precision] = (costly(peer.float()), own)
    token = relative(*found["32"])
    means = [relative(peer.sum(), own.sum()) for peer, own in found.values()]
    print(
        f"{name}: losses of {rows} sentences of {longest} tokens, same noise: float32, tokens differ by {token:.1e} "
        f"and the mean by {means[0]:.1e}; bf16, the mean by {means[1]:.1e}"
    )
    theirs.model.train(), ours.network.train()


def equal_rows(batches: Sequence[TokenBatch]) -> TokenBatch:
    """The largest group of sentences in a batch that have equal length, at least 10 tokens."""
    groups = [
        batch.tokens[batch.lengths == length, :length]
        for batch in batches
        for length in batch.lengths.unique().tolist()
        if length >= 10
    ]
    tokens = max(groups, key=len)
    return TokenBatch(tokens, torch.full((len(tokens),), tokens.shape[1]), ("",) * len(tokens), Position(1, 0), 0)
