"""Language models of the transformers library, from a local folder: causal ones exactly, masked ones by
pseudo-log-likelihood.

    scorer = load_huggingface("models/gpt2")                  # config.json defines the kind of model
    scorer.score_texts("utt", ["he hoped there would be stew"])[0].log_prob      # nats, higher is better

Nothing is downloaded and no code of the folder is run: weights must be safetensors (see huggingface_folder.py). Texts
are plain text, so "</s>" in a hypothesis is four characters and not a special token (see huggingface_text.py). A text
that is too long for the model is an error and is not truncated.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from rescore.lms.base import LanguageModelScorer, NetworkOptions, texts_of
from rescore.lms.huggingface_folder import (
    CAUSAL_ENDINGS,
    MASKED_ENDINGS,
    architecture_of,
    fingerprint,
    load_folder,
    shorten,
)
from rescore.lms.huggingface_text import PlainText
from rescore.nbest.types import NBestList
from rescore.scores import LOG_P, PLL, SequenceScore, UnknownCounts
from returnn_bridge.files import is_finite, named, quoted

if TYPE_CHECKING:
    import torch

MOST_LOGITS = 1 << 27  # maximum number of logits to compute at once: 512 MB in float32
BATCH_TOKENS = 8192
PRECISIONS = ("32", "bf16")

Row = tuple[int, ...]
Query = tuple[int, int, int]  # (row, position of the logits, token to predict)


def load_huggingface(
    folder: str | os.PathLike[str], *, name: str = "", score_eos: bool = True, **options: Unpack[NetworkOptions]
) -> HuggingFaceCausalScorer | HuggingFaceMaskedScorer:
    """The scorer for the `architectures` field of config.json. `score_eos`: see HuggingFaceCausalScorer.

    ValueError for a folder that is neither kind, is incomplete, or has only pickled weights; FileNotFoundError for a
    missing folder.
    """
    if architecture_of(Path(folder)).endswith(MASKED_ENDINGS):
        return HuggingFaceMaskedScorer(folder, name=name, **options)
    return HuggingFaceCausalScorer(folder, name=name, score_eos=score_eos, **options)


class _HuggingFaceScorer(LanguageModelScorer):
    """Base class of both kinds: loads the model, and computes log-probabilities in batches of similar length."""

    passes_run: int = 0

    kind: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]
    add_special: ClassVar[bool]  # whether the tokenizer adds special tokens to a text

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str = "",
        device: str = "auto",
        precision: str = "32",
        batch_tokens: int | None = None,
    ):
        """precision: of the network, "32" or "bf16"; softmax is float32, sums are float64.

        batch_tokens: maximum number of tokens in a forward pass, with padding (default: 8192).
        """
        batch_tokens = BATCH_TOKENS if batch_tokens is None else batch_tokens
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}; expected '32' or 'bf16'")
        if batch_tokens < 1:
            raise ValueError(f"batch tokens {batch_tokens}: expected at least 1")
        self.folder = Path(folder)
        self.name = name or self.folder.resolve().name
        self.precision, self.batch_tokens = precision, batch_tokens
        self.architecture = architecture_of(self.folder)
        if not self.architecture.endswith(self.endings):
            raise ValueError(
                f"{self.folder / 'config.json'}: architecture {self.architecture}; "
                f"expected a {self.kind} one (...{' or ...'.join(self.endings)})"
            )
        from diffusion_lm.device import usable_device

        self.model, self.tokenizer = load_folder(self.folder, self.kind, usable_device(device), precision)
        self.device = str(self.model.device)
        self.model.config.use_cache = False  # because every text is run once, so a cache would only use memory
        self.vocabulary_size = int(self.model.get_input_embeddings().weight.shape[0])
        with named(self.folder):
            self._longest = _longest_input(self.model, self.tokenizer)
        self.plain_text = PlainText(self.tokenizer)
        self._unknown = UnknownCounts(0, 0, "tokens")
        self._digest = ""

    @property
    def source(self) -> str:
        return str(self.folder)

    @property
    def longest(self) -> int:
        return self._longest

    def first_words(self, text: str) -> str:
        def too_long(part: str) -> bool:
            ((ids,), (special,)) = self._encode("text", [part])
            return any(len(row) > self.longest for row, _, _ in self._rows(ids, special))

        if not too_long(text):
            return text
        words = text.split()
        return " ".join(words[: bisect_left(range(1, len(words)), True, key=lambda n: too_long(" ".join(words[:n])))])

    def score_group(self, utterances: Sequence[NBestList]) -> list[list[SequenceScore]]:
        """Equal network inputs are run once. ValueError naming the utterance for a text that does not fit the model."""
        index_of: dict[str, int] = {}
        rows: dict[Row, int] = {}
        queries: list[Query] = []
        starts: list[int] = []
        passes: list[int] = []
        for utterance in utterances:
            seq_tag, texts = utterance.seq_tag, texts_of(utterance)
            for text, ids, special in zip(texts, *self._encode(seq_tag, texts)):
                plain = [token for token, is_special in zip(ids, special) if not is_special]
                self._unknown += UnknownCounts(plain.count(self.tokenizer.unk_token_id), len(plain), "tokens")
                if text in index_of:
                    continue
                index_of[text] = len(starts)
                starts.append(len(queries))
                asked = self._rows(ids, special)
                for row, position, target in asked:
                    self._check(seq_tag, text, row, target)
                    queries.append((rows.setdefault(row, len(rows)), position, target))
                passes.append(len({row for row, _, _ in asked}))
        starts.append(len(queries))
        answers = self._answer(list(rows), queries)
        kind = LOG_P if self.kind == "causal" else PLL
        scores = [
            SequenceScore(sum(answers[start:end]), 0.0, count, end - start, kind)
            for start, end, count in zip(starts, starts[1:], passes)
        ]
        return [[scores[index_of[text]] for text in texts_of(utterance)] for utterance in utterances]

    def describe(self) -> dict[str, object]:
        self._digest = self._digest or fingerprint(self.folder)
        return {
            "kind": f"huggingface {self.kind}",
            "architecture": self.architecture,
            "vocabulary_size": self.vocabulary_size,
            "model": self._digest,
            "precision": self.precision,
            "batch_tokens": self.batch_tokens,
        }

    def unknown(self) -> UnknownCounts:
        return self._unknown

    def _encode(self, seq_tag: str, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """The ids of each text and, for each id, whether it is a special token that the tokenizer added."""
        where = f"{self.folder}: utterance {seq_tag!r}"
        return self.plain_text.encode(texts, add_special=self.add_special, where=where)

    @abstractmethod
    def _rows(self, ids: list[int], special: list[int]) -> list[tuple[Row, int, int]]:
        """(network input, position of the logits, token to predict) for every scored token."""

    def _check(self, seq_tag: str, text: str, row: Row, target: int) -> None:
        where = f"{self.folder}: utterance {seq_tag!r}, text {shorten(text)!r}"
        if len(row) > self.longest:
            raise ValueError(f"{where}: {len(row)} tokens with special ones; expected at most {self.longest}")
        if max(*row, target) >= self.vocabulary_size:
            raise ValueError(
                f"{where}: token id {max(*row, target)} of a model with {self.vocabulary_size}; "
                "expected the tokenizer that belongs to the model"
            )

    def _check_own(self, role: str, tokens: Sequence[int]) -> None:
        """ValueError if tokens that occur in every input are not valid ids of the model."""
        for token in tokens:
            if token >= self.vocabulary_size:
                raise ValueError(
                    f"{self.folder}: {role} token {self.tokenizer.convert_ids_to_tokens(token)!r} has id {token} "
                    "of a model "
                    f"with {self.vocabulary_size}; expected the tokenizer that belongs to the model"
                )

    def _answer(self, rows: list[Row], queries: list[Query]) -> list[float]:
        """log p(target at position | row) of every query, nats."""
        import torch

        answers = [0.0] * len(queries)
        of_row: list[list[int]] = [[] for _ in rows]
        for index, (row, _, _) in enumerate(queries):
            of_row[row].append(index)
        for batch in self._batches([len(row) for row in rows]):
            asked = [index for row in batch for index in of_row[row]]
            line_of = {row: line for line, row in enumerate(batch)}
            lines = torch.tensor([line_of[queries[index][0]] for index in asked], device=self.model.device)
            positions = torch.tensor([queries[index][1] for index in asked], device=self.model.device)
            targets = torch.tensor([queries[index][2] for index in asked], device=self.model.device)
            log_probs = self._log_probs([rows[row] for row in batch], lines, positions, targets)
            for index, value in zip(asked, log_probs.tolist()):
                answers[index] = value
            self.passes_run += len(batch)
        return answers

    def _log_probs(
        self, rows: list[Row], lines: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """One forward pass. lines, positions, targets: [Q]. Returns float64 [Q], nats."""
        import torch

        width = max(map(len, rows))
        # Any id can be used for padding, because padding on the right is not attended to and shifts no position.
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for line, row in enumerate(rows):
            ids[line, : len(row)] = torch.tensor(row)
            mask[line, : len(row)] = 1
        with torch.inference_mode():
            logits = self.model(
                input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device), return_dict=True
            ).logits
            # Only the rows that are needed, in chunks, because the full log-softmax would double the memory of the
            # logits.
            pieces = [
                torch.log_softmax(logits[line, position].float(), dim=-1).gather(1, target[:, None])[:, 0]
                for line, position, target in zip(lines.split(512), positions.split(512), targets.split(512))
            ]
        return torch.cat(pieces).double().cpu()

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Batches of indices, sorted by length. Rows x longest row is within the budget, unless a single row exceeds
        it."""
        budget = min(self.batch_tokens, max(1, MOST_LOGITS // self.vocabulary_size))
        batches: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
            if not batches or (len(batches[-1]) + 1) * lengths[index] > budget:
                batches.append([])
            batches[-1].append(index)
        return batches


class HuggingFaceCausalScorer(_HuggingFaceScorer):
    """log p(tokens, end of sentence | start), exact, one pass per text.

    The start is the tokenizer's BOS, else its EOS, else its CLS token; it is not scored. The end of sentence is scored
    if the tokenizer has an EOS token and `score_eos` is set. An empty text has the score log p(EOS | start), or 0.0 if
    EOS is not scored.
    """

    kind = "causal"
    endings = CAUSAL_ENDINGS
    add_special = False

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str = "",
        score_eos: bool = True,
        **options: Unpack[NetworkOptions],
    ):
        super().__init__(folder, name=name, **options)
        tokens = self.tokenizer
        starts = [
            token for token in (tokens.bos_token_id, tokens.eos_token_id, tokens.cls_token_id) if token is not None
        ]
        if not starts:
            raise ValueError(
                f"{self.folder}: its tokenizer has no BOS, EOS or CLS token; expected one to start a sentence"
            )
        self.start = starts[0]
        self.end = tokens.eos_token_id if score_eos else None
        self._check_own("start", [self.start])
        self._check_own("end", [] if self.end is None else [self.end])
        self._check_causal()

    def describe(self) -> dict[str, object]:
        start = self.tokenizer.convert_ids_to_tokens(self.start)
        return super().describe() | {"start": start, "scores_eos": self.end is not None}

    def _rows(self, ids: list[int], special: list[int]) -> list[tuple[Row, int, int]]:
        targets = ids if self.end is None else [*ids, self.end]
        row = (self.start, *targets[:-1])  # the last token is only predicted
        return [(row, position, target) for position, target in enumerate(targets)]

    def _check_causal(self) -> None:
        """ValueError for an encoder with a causal head, which sees the word to predict, so that its scores are
        useless."""
        import torch

        probe = torch.tensor([[self.start, 0, 0], [self.start, 0, self.vocabulary_size - 1]], device=self.model.device)
        with torch.inference_mode():
            logits = self.model(input_ids=probe, attention_mask=torch.ones_like(probe), return_dict=True).logits
        one, other = logits[:, 0].float()
        tolerance = (1e-4 if self.precision == "32" else 1e-2) * float(one.abs().max())
        if float((one - other).abs().max()) > tolerance:
            raise ValueError(
                f"{self.folder}: {self.architecture} looks at later tokens; expected a causal model (BERT: is_decoder)"
            )


class HuggingFaceMaskedScorer(_HuggingFaceScorer):
    """Pseudo-log-likelihood: the sum over all tokens of log p(token | all others), each masked in turn, one pass per
    token.

    Salazar et al. 2020, "Masked Language Model Scoring". It is not a probability of the text, so its target is named
    pll. Tokens that the tokenizer adds (CLS, SEP ...) are neither masked nor scored, so an empty text has the score
    0.0.
    """

    kind = "masked"
    endings = MASKED_ENDINGS
    add_special = True

    def __init__(self, folder: str | os.PathLike[str], *, name: str = "", **options: Unpack[NetworkOptions]):
        super().__init__(folder, name=name, **options)
        if self.tokenizer.mask_token_id is None:
            raise ValueError(f"{self.folder}: its tokenizer has no mask token; expected one for a masked model")
        self._check_own("mask", [self.tokenizer.mask_token_id])
        self._check_own("special", self._encode("", [""])[0][0])

    def describe(self) -> dict[str, object]:
        return super().describe() | {"target": PLL}

    def _rows(self, ids: list[int], special: list[int]) -> list[tuple[Row, int, int]]:
        mask = self.tokenizer.mask_token_id
        scored = [index for index, is_special in enumerate(special) if not is_special]
        return [((*ids[:index], mask, *ids[index + 1 :]), index, ids[index]) for index in scored]


def _longest_input(model: Any, tokenizer: Any) -> int:
    """Maximum length of an input: the smallest limit of tokenizer, configuration and RoBERTa-like position tables."""
    most = tokenizer.model_max_length
    if isinstance(most, bool) or not is_finite(most) or most < 1:
        raise ValueError(f"tokenizer_config.json: model_max_length is {quoted(most)}; expected a number of tokens")
    limits = [int(most)]
    stated = getattr(model.config, "max_position_embeddings", None)
    if isinstance(stated, int) and stated > 0:
        limits.append(stated)
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:  # positions are counted from padding_idx + 1
            limits.append(module.num_embeddings - padding - 1)
    return min(limits)
