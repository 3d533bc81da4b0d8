"""A training step of MDLM's own code (arXiv 2406.07524) on the CPU: its network, loss, optimiser and weight average.

with imported(path, "diffusion") as (diffusion,):
    step = MdlmStep(diffusion, size, vocab)
    step.loss(*step.collated(batch))
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from diffusion_lm.backbones.dit import DiTConfig
from originals.imports import Settings, Tokenizer, randomise
from returnn_bridge.batching import TokenBatch
from returnn_bridge.vocab import Vocab


class MdlmStep:
    """MDLM on padded rows as from its data loader, with attention to the padding and random nonzero weights."""

    def __init__(
        self,
        diffusion: ModuleType,
        size: DiTConfig,
        vocab: Vocab,
        *,
        time_conditioning: bool = True,
    ):
        model = Settings(hidden_size=size.hidden_size, n_blocks=size.num_blocks, n_heads=size.num_heads)
        model |= {"cond_dim": size.cond_dim, "dropout": size.dropout, "length": 1024}
        model |= {"scale_by_sigma": True, "tie_word_embeddings": False}
        options: dict[str, object] = {"parameterization": "subs", "backbone": "dit", "T": 0, "subs_masking": False}
        options |= {"time_conditioning": time_conditioning, "noise": Settings(type="loglinear"), "model": model}
        switches = {"antithetic_sampling": True, "importance_sampling": False, "change_of_variables": False}
        options["training"] = Settings(switches | {"ema": 0.9999, "sampling_eps": 1e-3})
        options |= {"sampling": Settings(predictor="ddpm_cache"), "lr_scheduler": Settings()}
        options["optim"] = Settings(lr=3e-4, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)
        options["eval"] = Settings(gen_ppl_eval_model_name_or_path="")
        self.model = diffusion.Diffusion(Settings(options), Tokenizer(vocab.num_inputs, vocab.mask_id)).train()
        self.vocab = vocab
        self._randomise()
        (self.optimizer,), _ = self.model.configure_optimizers()

    def _randomise(self) -> None:
        randomise(self.model.backbone, seed=0)
        with torch.no_grad():
            # They can predict BOS and EOS, we can not: no network says it.
            self.model.backbone.output_layer.linear.bias[[self.vocab.bos_id, self.vocab.eos_id]] = -1e4
        self.model.ema.shadow_params = [value.detach().clone() for value in self.model.backbone.parameters()]

    def collated(self, batch: TokenBatch, pad_to: int = 0) -> tuple[Tensor, Tensor]:
        """Framed ids and attention mask [B, L], padded with EOS to the longest of the batch, or to `pad_to`."""
        rows, longest = batch.tokens.shape
        ids = torch.full((rows, max(longest + 2, pad_to)), self.vocab.eos_id)
        ids[:, 0] = self.vocab.bos_id
        ids[:, 1 : longest + 1][batch.valid] = batch.tokens[batch.valid]
        mask = torch.arange(ids.shape[1])[None] < batch.lengths[:, None] + 2
        return ids, mask.long()

    def loss(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):  # Lightning's precision "bf16"
            return self.model._loss(ids, attention_mask).loss

    def step(self, ids: Tensor, attention_mask: Tensor, parts: Sequence[slice] = (slice(None),)) -> float:
        """One optimiser step on these rows; with `parts`, so many of them at a time, their gradients added up."""
        self.optimizer.zero_grad()
        total = 0.0
        for part in parts:
            loss = self.loss(ids[part], attention_mask[part]) / len(parts)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)  # the trainer's gradient_clip_val
        self.optimizer.step()
        self.model.ema.update(self.model.backbone.parameters())
        return total
