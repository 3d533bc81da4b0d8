"""Measures WER and noise of diffusion scores against network passes, and the scorer's speed against plain loops.

    python benchmarks/rescoring.py scores --model masked/model --tune tune.json.gz --eval eval.json.gz --out bench
    python benchmarks/rescoring.py plot --ar ar/model --out bench ...      # table and plot of all scores
    python benchmarks/rescoring.py speed --model masked/model --eval eval.json.gz [--utterances 12]

`scores` scores the first `--top` hypotheses of every list and continues after an interruption; two processes with
`--part 1/2` and `--part 2/2` share the work. Scales (LM, words) of every estimator and number of passes are tuned on
`--tune` with a separate seed; the WER on `--eval` is given as mean and standard deviation over `--seeds` seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from diffusion_lm.layout import Layout
from rescore.combination.scales import winners
from rescore.combination.tuning import tune
from rescore.estimators import ESTIMATORS, build_estimator
from rescore.estimators.common_random_numbers import CommonRandomNumbers
from rescore.estimators.plans import MaskPlan
from rescore.lms.network import NetworkScorer
from rescore.lms.network_masks import MaskMeasurement
from rescore.nbest import read_nbest
from rescore.nbest.references import attach_references, read_references
from rescore.nbest.types import Hypothesis, NBestList
from rescore.wer import error_table

# Draws of these are independent, so the first K draws of a long run are a run of K passes.
NESTED = ("plain", "sample-norm", "global-norm", "coupled")
SHORT = (1, 2, 4, 8, 10, 16)
LONG = {"plain": (32, 64, 256)}
DESIGNS = {
    "control": (5, 9, 11, 17),
    "systematic-k": (10,),
    "strided": (2, 3, 4, 6, 8, 10, 16),
    "contrast": (3,),
    "pll": (0,),
}
DESIGNS_LONG = {"control": (33, 129)}
DETERMINISTIC = ("strided", "contrast", "contrast:chain", "pll")
TUNE_SEED = 1000


def read_lists(path: str, top: int) -> list[NBestList]:
    lists = attach_references(read_nbest(path), read_references(path))
    return [dataclasses.replace(utterance, hypotheses=utterance.hypotheses[:top]) for utterance in lists]


def tasks(seeds: int, long_seeds: int) -> Iterator[tuple[str, int, int, str]]:
    """(estimator, passes, seed, set) of all runs. Runs of nested estimators include all smaller numbers of passes."""
    for part, own_seeds in (("tune", [TUNE_SEED]), ("eval", list(range(seeds)))):
        for name, counts in DESIGNS.items():
            for count in counts:
                for seed in own_seeds[:1] if name in DETERMINISTIC else own_seeds:
                    yield name, count, seed, part
        for name in NESTED:
            for seed in own_seeds:
                long = LONG.get(name, ()) if part == "tune" or seed < long_seeds else ()
                yield name, max(*SHORT, *long), seed, part
        for name, counts in DESIGNS_LONG.items():
            for count in counts:
                yield name, count, own_seeds[0], part


def file_of(folder: Path, name: str, passes: int, seed: int, part: str) -> Path:
    return folder / f"{part}.{name.replace(':', '_')}.{passes}.{seed}.json"


def score(options: argparse.Namespace) -> None:
    """Run all scorings whose results are missing."""
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    scorer = NetworkScorer(options.model, name="lm", precision=options.precision, device=options.device)
    lists = {part: read_lists(getattr(options, part), options.top) for part in ("tune", "eval")}
    number, count = map(int, options.part.split("/"))
    for name, passes, seed, part in list(tasks(options.seeds, options.long_seeds))[number - 1 :: count]:
        target = file_of(out, name, passes, seed, part)
        if target.exists():
            continue
        began, rows_before = perf_counter(), scorer.passes_run
        found: dict[int, list[list[float]]] = {}
        for utterance in lists[part]:
            for size, values in measure(scorer, name, passes, seed, utterance).items():
                found.setdefault(size, []).append(values)
        rows = scorer.passes_run - rows_before
        facts = {"rows": rows, "seconds": perf_counter() - began, "scores": found}
        target.with_suffix(".tmp").write_text(json.dumps(facts))
        target.with_suffix(".tmp").rename(target)
        print(f"{target.name}: {rows} rows, {facts['seconds']:.0f} s", flush=True)


def plan_estimator(name: str, passes: int | None) -> MaskPlan:
    """The estimator as a plan with one replicate."""
    how = build_estimator(name, passes=passes, replicates=1)
    assert isinstance(how, MaskPlan), f"{name} has no plan of masks"
    return how


def measure(scorer: NetworkScorer, name: str, passes: int, seed: int, utterance: NBestList) -> dict[int, list[float]]:
    """{passes: [score of each hypothesis]}"""
    texts = [hypothesis.text for hypothesis in utterance.hypotheses]
    encoded = scorer.encode(texts)
    unique = list(dict.fromkeys(encoded))
    how = plan_estimator(name, None if ESTIMATORS[name].usual_passes is None else passes)
    listed = how.plan_list(utterance.seq_tag, unique, seed=seed)
    assert isinstance(scorer.measurement, MaskMeasurement), "the benchmark is of families with masks"
    with scorer.runner.inference():
        log_probs = scorer.measurement.log_probs(listed.texts, listed.plans)
    if name not in NESTED:
        values = {passes: [estimate.value for estimate in listed.estimates(log_probs)]}
    else:
        values = {}
        for size in [size for size in (*SHORT, *LONG.get(name, ())) if size <= passes]:
            shorter = plan_estimator(name, size)
            plans = shorter.plan_list(utterance.seq_tag, unique, seed=seed).plans
            values[size] = [plan.estimate(rows[: len(plan.masks)]).value for plan, rows in zip(plans, log_probs)]
    place = {tokens: index for index, tokens in enumerate(unique)}
    return {size: [found[place[tokens]] for tokens in encoded] for size, found in values.items()}


def acoustic(lists: Sequence[NBestList]) -> str:
    """The name of the first score."""
    return next(iter(lists[0].hypotheses[0].scores))


def with_scores(lists: Sequence[NBestList], scores: Sequence[Sequence[float]]) -> list[NBestList]:
    return [
        dataclasses.replace(
            utterance,
            hypotheses=tuple(
                Hypothesis(h.text, {**h.scores, "lm.": value}) for h, value in zip(utterance.hypotheses, row)
            ),
        )
        for utterance, row in zip(lists, scores, strict=True)
    ]


def summary(options: argparse.Namespace) -> list[dict[str, Any]]:
    """WER and noise for each estimator and number of passes."""
    folder = Path(options.out)
    lists = {part: read_lists(getattr(options, part), options.top) for part in ("tune", "eval")}
    tables = {part: error_table(found) for part, found in lists.items()}
    runs: dict[tuple[str, int, str], dict[int, tuple[Any, float]]] = {}
    for name, passes, seed, part in tasks(options.seeds, options.long_seeds):
        facts = json.loads(file_of(folder, name, passes, seed, part).read_text())
        for size, scores in facts["scores"].items():
            cost = facts["rows"] / sum(map(len, scores))
            runs.setdefault((name, int(size), part), {})[seed] = (
                scores,
                cost * int(size or 1) / max(passes, 1) if passes else cost,
            )
    entries = []
    tuned: dict[str, Any] = {}
    for name, size, part in sorted(runs):
        if part != "eval" or (name == "coupled" and size == 1):  # a couple is two passes
            continue
        if (name, size, "tune") in runs:
            ((scores, _),) = runs[name, size, "tune"].values()
            found = tune(
                with_scores(lists["tune"], scores),
                fixed={acoustic(lists["tune"]): 1.0},
                free={"lm.": (0.0, 3.0), "words": (-10.0, 10.0)},
                table=tables["tune"],
            )
            tuned[name] = found.scales
        rates, gaps, rows = [], [], []
        for scores, cost in runs[name, size, "eval"].values():
            best = winners(with_scores(lists["eval"], scores), tuned[name])
            rates.append(100 * tables["eval"].errors_of(best).sum() / tables["eval"].reference_words.sum())
            gaps.append([row[0] - row[1] for row in scores if len(row) > 1])
            rows.append(cost)
        spread = np.var(gaps, axis=0, ddof=1).mean() if len(gaps) > 1 else 0.0 if name in DETERMINISTIC else np.nan
        entries.append(
            {
                "estimator": name,
                "passes": size,
                "rows": float(np.mean(rows)),
                "wer": float(np.mean(rates)),
                "wer_sd": float(np.std(rates, ddof=1)) if len(rates) > 1 else None,
                "seeds": len(rates),
                "variance_of_difference": None if np.isnan(spread) else float(spread),
                "scales": tuned[name].named(),
            }
        )
    return entries


def ar_rate(options: argparse.Namespace) -> float:
    """WER of the AR LM on the same lists, tuned in the same way."""
    scorer = NetworkScorer(options.ar, name="ar")
    found = {}
    for part in ("tune", "eval"):
        lists = read_lists(getattr(options, part), options.top)
        found[part] = with_scores(lists, [[s.log_prob for s in row] for row in scorer.score_group(lists)])
    scales = tune(
        found["tune"], fixed={acoustic(found["tune"]): 1.0}, free={"lm.": (0.0, 3.0), "words": (-10.0, 10.0)}
    ).scales
    table = error_table(found["eval"])
    return float(100 * table.errors_of(winners(found["eval"], scales)).sum() / table.reference_words.sum())


def plot(options: argparse.Namespace) -> None:
    """Write rescoring.json, rescoring.md and rescoring.svg into the folder."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    entries, ar = summary(options), ar_rate(options)
    out = Path(options.out)
    (out / "rescoring.json").write_text(json.dumps({"ar_wer": ar, "entries": entries}, indent=1) + "\n")
    header = (
        "estimator",
        "passes",
        "network rows a hypothesis",
        "WER % (s.d. over seeds)",
        "seeds",
        "s.d. of first - second, nats",
    )
    lines = [f"| {' | '.join(header)} |", "|---|---|---|---|---|---|"]
    for entry in entries:
        spread = "" if entry["wer_sd"] is None else f" ({entry['wer_sd']:.2f})"
        noise = "" if (variance := entry["variance_of_difference"]) is None else f"{variance**0.5:.2f}"
        lines.append(
            f"| {entry['estimator']} | {entry['passes'] or 'one a token'} | {entry['rows']:.1f} "
            f"| {entry['wer']:.2f}{spread} | {entry['seeds']} | {noise} |"
        )
    lines.append(f"| AR LM | 1 | 1 | {ar:.2f} | | 0 |")
    (out / "rescoring.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for name in dict.fromkeys(entry["estimator"] for entry in entries):
        own = sorted((entry for entry in entries if entry["estimator"] == name), key=lambda entry: entry["rows"])
        x = [entry["rows"] for entry in own]
        rates, bars = [e["wer"] for e in own], [e["wer_sd"] or 0 for e in own]
        curve = left.errorbar(x, rates, bars, label=name, marker="o", ms=3, lw=1, capsize=2)
        noisy = [(e["rows"], e["variance_of_difference"] ** 0.5) for e in own if e["variance_of_difference"]]
        if noisy:
            right.plot(*zip(*noisy), label=name, color=curve[0].get_color(), marker="o", ms=3, lw=1)
    left.axhline(ar, color="black", lw=1, ls="--", label="AR LM")
    left.set(xscale="log", xlabel="network rows a hypothesis", ylabel="WER %")
    right.set(xscale="log", yscale="log", xlabel="network rows a hypothesis", ylabel="s.d. of a score difference, nats")
    left.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out / "rescoring.svg")


def padded_log_probs(scorer: NetworkScorer, rows: Sequence[Sequence[int]], longest: int) -> torch.Tensor:
    """[rows, longest, symbols] log p of every symbol at every position, with rows padded with EOS to `longest`."""
    vocab = scorer.model.vocab
    padded = [[vocab.bos_id, *row, *[vocab.eos_id] * (longest - 1 - len(row))] for row in rows]
    layout = Layout(torch.full((len(rows),), longest))
    with torch.inference_mode():
        every = torch.arange(len(rows) * longest)
        logits = scorer.model.network(torch.tensor(padded).flatten(), layout, None, every)
        return torch.log_softmax(logits.float(), dim=-1).unflatten(0, (len(rows), longest))


def reference_loop(scorer: NetworkScorer, tag: str, encoded: Sequence[tuple[int, ...]], passes: int) -> None:
    """The loop of the reference run: 16 hypotheses padded to 128, one mask each per pass, all positions projected."""
    how = plan_estimator("plain", passes)
    plans = how.plan_list(tag, encoded, seed=1).plans
    for start in range(0, len(encoded), 16):
        batch = range(start, min(start + 16, len(encoded)))
        for draw in range(passes):
            rows = [np.where(plans[i].masks[draw], scorer.model.vocab.mask_id, encoded[i]).tolist() for i in batch]
            padded_log_probs(scorer, rows, 128)


def pll_loop(scorer: NetworkScorer, encoded: Sequence[tuple[int, ...]]) -> None:
    """The simple pseudo-log-likelihood loop, with one network pass per masked position."""
    for tokens in encoded:
        for position in range(len(tokens)):
            row = [*tokens[:position], scorer.model.vocab.mask_id, *tokens[position + 1 :]]
            padded_log_probs(scorer, [row], len(tokens) + 2)


def speed(options: argparse.Namespace) -> None:
    """Print hypotheses per second of the scorer and the loops, and the share of the matrix-product rate."""
    lists = read_lists(options.eval, options.top)[:: max(1, 130 // options.utterances)][: options.utterances]
    texts = [(u.seq_tag, [h.text for h in u.hypotheses]) for u in lists]
    hypotheses = sum(len(row) for _, row in texts)
    slow = NetworkScorer(options.model, name="lm")
    encoded = [list(dict.fromkeys(slow.encode(row))) for _, row in texts]
    loop_passes = 2
    began = perf_counter()
    for (tag, _), tokens in zip(texts, encoded):
        reference_loop(slow, tag, tokens, loop_passes)
    per_pass = (perf_counter() - began) / loop_passes
    began = perf_counter()
    few = encoded[: max(1, len(encoded) // 4)]
    for tokens in few:
        pll_loop(slow, tokens)
    pll = (perf_counter() - began) / sum(map(len, few))
    print(f"{hypotheses} hypotheses, {torch.get_num_threads()} threads")
    print(
        f"loop like the reference run: {hypotheses / per_pass:.1f} hypotheses a second for one pass,"
        f" {hypotheses / per_pass / 10:.2f} for 10"
    )
    print(f"PLL one mask at a time: {1 / pll:.2f} hypotheses a second")
    for precision in ("32", "bf16"):
        for name, passes in (("pll", None), ("control", 11), ("strided", 6), ("strided", 3)):
            fast = NetworkScorer(
                options.model, name="lm", precision=precision, estimator=build_estimator(name, passes=passes)
            )
            fast.score_group(lists[:2])
            began, rows_before = perf_counter(), fast.passes_run
            for start in range(0, len(lists), 8):
                fast.score_group(lists[start : start + 8])
            seconds = perf_counter() - began
            print(
                f"{name:8s} {passes or '':>3} {precision:>4}: {hypotheses / seconds:7.1f} hypotheses a second, "
                f"{(fast.passes_run - rows_before) / seconds:6.0f} rows a second"
            )
    engine_share(slow, options.model, lists)


def engine_share(slow: NetworkScorer, model: str, lists: Sequence[NBestList]) -> None:
    """FLOP/s of the linear layers, relative to a product of two large matrices."""
    for precision, kind in (("32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(2048, 2048).to(kind), torch.randn(2048, 2048).to(kind)
        a @ b
        began = perf_counter()
        for _ in range(10):
            a @ b
        peak = 10 * 2 * 2048**3 / (perf_counter() - began)
        strided = plan_estimator("strided", 6)
        fast = NetworkScorer(model, name="lm", precision=precision, estimator=strided)
        inner = sum(p.numel() for n, p in slow.model.network.named_parameters() if p.dim() == 2 and "block" in n)
        head = max(p.numel() for p in slow.model.network.parameters() if p.dim() == 2)
        work = 0
        for utterance in lists:  # the rows that will be run, each once
            for tokens in dict.fromkeys(fast.encode([hypothesis.text for hypothesis in utterance.hypotheses])):
                slots = [(index, 0) for index in range(len(tokens))]
                plan = strided.plan(len(tokens), CommonRandomNumbers(1, utterance.seq_tag, slots))
                work += 2 * (inner * (len(tokens) + 2) * len(plan.masks) + head * int(plan.masks.sum()))
        asked = sum(score.num_passes for row in fast.score_group(lists) for score in row)
        began, rows_before = perf_counter(), fast.passes_run
        fast.score_group(lists)
        seconds = perf_counter() - began
        rate = work * (fast.passes_run - rows_before) / asked / seconds
        print(f"{precision}: {rate / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s, {rate / peak:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scores", "plot", "speed"))
    parser.add_argument("--model")
    parser.add_argument("--ar")
    parser.add_argument("--tune")
    parser.add_argument("--eval")
    parser.add_argument("--out", default="bench")
    parser.add_argument("--top", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--long-seeds",
        type=int,
        default=5,
        help="seeds of the runs with 32 passes and more, which take most of the time",
    )
    parser.add_argument("--utterances", type=int, default=12)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    {"scores": score, "plot": plot, "speed": speed}[options.what](options)


if __name__ == "__main__":
    main()
