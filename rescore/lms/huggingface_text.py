"""Token ids of plain text by a Hugging Face tokenizer: only the tokenizer adds special tokens, never the text.

    ids, special = PlainText(tokenizer).encode(["the </s> king"], add_special=True, where="models/gpt2: utterance 'u1'")

`split_special_tokens` is not sufficient to prevent "</s>" or "[MASK]" in a text from becoming that token: it ignores
added tokens that are not marked as special, and entries of the vocabulary with the same name. A text in which that
happens is encoded again, by a copy of the tokenizer in which the special tokens have names that can not occur in a
text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rescore.lms.huggingface_folder import shorten

Ids = list[list[int]]


class PlainText:
    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self.special = frozenset({*tokenizer.all_special_ids, *(index for index, token in added if token.special)})
        self._renamed: Any = None

    def encode(self, texts: Sequence[str], *, add_special: bool, where: str) -> tuple[Ids, Ids]:
        """The ids of each text and, for each id, 1 if it is a special token that the tokenizer added, else 0.

        Texts are not truncated, even if tokenizer.json enables it. `where`: the beginning of error messages.
        """
        if not texts:
            return [], []
        found = self.tokenizer(
            list(texts),
            add_special_tokens=add_special,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        ids: Ids = found["input_ids"]
        masks: Ids = found["special_tokens_mask"] if add_special else [[0] * len(row) for row in ids]
        for index, text in enumerate(texts):
            if self._spelled(ids[index], masks[index]) and self.tokenizer.is_fast:
                ids[index], masks[index] = self._encode_renamed(text, add_special)
            # The unknown token is allowed, because it stands for words that are not in the vocabulary.
            spelled = self._spelled(ids[index], masks[index]) - {self.tokenizer.unk_token_id}
            if spelled:
                name = self.tokenizer.convert_ids_to_tokens(min(spelled))
                raise ValueError(
                    f"{where}, text {shorten(text)!r}: its tokens include the special token {name!r}; "
                    "expected plain text"
                )
        return ids, masks

    def _spelled(self, ids: list[int], mask: list[int]) -> set[int]:
        """Ids of special tokens that come from the text."""
        return {token for token, added in zip(ids, mask, strict=True) if not added and token in self.special}

    def _encode_renamed(self, text: str, add_special: bool) -> tuple[list[int], list[int]]:
        if self._renamed is None:
            self._renamed = _rename(self.tokenizer.backend_tokenizer, self.special)
        encoding = self._renamed.encode(text, add_special_tokens=add_special)
        return list(encoding.ids), list(encoding.special_tokens_mask) if add_special else [0] * len(encoding.ids)


def _rename(tokenizer: Any, special: frozenset[int]) -> Any:
    """A copy of a `tokenizers.Tokenizer` whose special tokens have the same ids, but names of code points that are not
    characters."""
    tree = json.loads(tokenizer.to_str())
    names = {tokenizer.id_to_token(token): f"\U0010ffff{token}\U0010ffff" for token in special}
    for token in tree["added_tokens"]:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "special": True, "normalized": False}
    model = tree["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): index for piece, index in model["vocab"].items()}
    else:  # Unigram: pieces with their scores, in the order of their ids
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):  # BPE merges; those that produce or use a special token only spell its name
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint((*pair, "".join(pair)))]
    copy = type(tokenizer).from_str(json.dumps(tree))
    copy.encode_special_tokens = True
    copy.no_truncation()
    copy.no_padding()
    return copy
