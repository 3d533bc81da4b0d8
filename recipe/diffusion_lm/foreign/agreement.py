"""Compare a foreign configuration tree with the model that it is to evaluate.

    check_agreement(made, model, "run/model")       # ValueError for the first key that contradicts the model

The modes that evaluate use the model folder alone, so a tree that says otherwise would be believed in vain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_lm.backbones import NetworkConfig
from diffusion_lm.config import TrainConfig
from diffusion_lm.families import Family, build_family
from diffusion_lm.foreign.rules import COMPARED
from diffusion_lm.foreign.table import KEYS
from diffusion_lm.foreign.translate import Translation
from diffusion_lm.model import LanguageModel, special_ids
from returnn_bridge.vocab.open import load_vocab


def check_agreement(made: Translation, model: LanguageModel, path: str) -> None:
    """ValueError naming a key of the tree, its value and that of the model in `path`, if they contradict each other.

    Compared are the keys whose row says so (rows.py); a key that the tree lacks is whatever the model has.
    """
    config = made.config
    tree = _settings(config.family, build_family(config.family, special_ids(model.vocab)), config.model)
    loaded = _settings(model.family_options, model.family, model.backbone)
    notes = [note for note in made.notes if note.verdict == COMPARED]
    # The name of the family comes first, because another family has other options.
    for note in sorted(notes, key=lambda note: "family.name" not in KEYS[note.key].compared):
        for setting in KEYS[note.key].compared:
            if setting == "data.vocab":
                _check_vocab(note.key, config, model, path)
            elif tree.get(setting) != loaded.get(setting):
                raise ValueError(
                    f"{note.key}: got {note.value!r}, which means {setting} {tree.get(setting)!r}, "
                    f"but {path} has {loaded.get(setting)!r}; expected the value of the model"
                )


def _settings(options: Mapping[str, Any], family: Family, network: NetworkConfig) -> dict[str, Any]:
    """The settings of a family and a network by dotted name, with the values of those that were left at the default.

    The options of a noise schedule, which have defaults too, are `family.noise.NAME`.
    """
    found = {f"family.{name}": value for name, value in vars(family).items()}
    found |= {f"model.{name}": value for name, value in vars(network).items()}
    found["family.name"] = options["name"]
    if "schedule" in vars(family):
        found |= {f"family.noise.{name}": value for name, value in vars(family.noise).items()}
    return found


def _check_vocab(key: str, config: TrainConfig, model: LanguageModel, path: str) -> None:
    if load_vocab(config.data.vocab).content != model.vocab.content:
        raise ValueError(f"{key}: {config.data.vocab} is not the vocabulary of {path}; expected the same file")
