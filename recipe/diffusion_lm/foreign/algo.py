"""Rules for section `algo` of a BD3-LM tree, which selects the model (the table of these keys is in bd3lm.py).

    algo(reading)               # "bd3lm": family block; "mdlm", "sedd": masked; "ar": autoregressive

A function with the name of a key is the rule of that key; rules.py describes rules.
"""

from __future__ import annotations

from typing import Any

from diffusion_lm.foreign.rules import HONOURED, NO_EFFECT, Reading, Rule, refuse, typed

# For each algo.name: our family, the required algo.parameterization, and the possible values of algo.sampler.
# _MASKED_SAMPLERS maps these values to names of our samplers.
FAMILIES = {"bd3lm": "block", "mdlm": "masked", "sedd": "masked", "ar": "autoregressive"}
_PARAMETERIZATIONS = {"bd3lm": "subs", "mdlm": "subs", "sedd": "sedd", "ar": "ar"}
_MASKED_SAMPLERS = {"semi_ar": "ddpm_cache", "analytic": "analytic"}
_SAMPLERS = {"bd3lm": ["semi_ar"], "mdlm": list(_MASKED_SAMPLERS), "sedd": list(_MASKED_SAMPLERS), "ar": ["ar"]}


def algo(reading: Reading) -> str:
    """The value of algo.name."""
    return str(reading.leaves.get("algo.name"))


def is_exact(reading: Reading) -> bool:
    """Whether blocks have one token, so that every token is masked and no noise is drawn."""
    return reading.leaves.get("algo.name") == "bd3lm" and reading.leaves.get("block_size") == 1


def name(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.name, which selects the family."""
    reading.put("family.name", FAMILIES[value], key)
    if value == "sedd":
        reading.put("family.parameterization", "sedd", key)
        return HONOURED, "family.name masked, family.parameterization sedd"
    return HONOURED, f"family.name {FAMILIES[value]}"


def backbone(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.backbone: all are the reference transformer, and no code of a published model is run."""
    if value == "dimamba":
        refuse(key, value, "the Mamba network is not in this version; possible: 'dit', 'hf_dit'")
    if value == "ar" and algo(reading) != "ar":
        refuse(key, value, "it belongs to algo.name ar; possible: 'dit', 'hf_dit'")
    if value not in ("dit", "hf_dit", "ar"):
        refuse(key, value, "expected 'dit' or 'hf_dit', or 'ar' with algo.name ar")
    return NO_EFFECT, "all three are the reference transformer; no code of a published model is run"


def parameterization(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.parameterization, which must agree with algo.name."""
    wanted = _PARAMETERIZATIONS[algo(reading)]
    if value != wanted:
        refuse(key, value, f"expected {wanted!r} with algo.name {algo(reading)}")
    return HONOURED, "follows from algo.name"


def time_conditioning(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.time_conditioning, which is free for mdlm only."""
    typed(key, value, bool)
    wanted = {"sedd": True, "ar": False, "bd3lm": False}.get(algo(reading), value)
    if value != wanted:
        refuse(key, value, f"expected {str(wanted).lower()} with algo.name {algo(reading)}")
    reading.put("family.time_conditioning", value, key)
    return HONOURED, "family.time_conditioning"


def steps(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.T, the number of reverse steps when sampling."""
    steps = typed(key, value, int)
    if algo(reading) == "ar":
        return NO_EFFECT, "an autoregressive model has no steps"
    if algo(reading) == "bd3lm" and reading.leaves.get("sampling.first_hitting", True) is True:
        return NO_EFFECT, "sampling.first_hitting: one step for every token"
    if steps < 1:
        refuse(key, value, "expected the number of reverse steps of a block, e.g. algo.T=5000")
    reading.put("sampling.steps", steps, key)
    return HONOURED, "reverse steps of a block" if algo(reading) == "bd3lm" else "reverse steps"


def flag(wanted: dict[str, bool], reason: str) -> Rule:
    """Rule for a flag whose value follows from algo.name; `wanted` holds the required values."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        typed(key, value, bool)
        expected = wanted.get(algo(reading))
        if expected is not None and value != expected:
            refuse(key, value, f"expected {str(expected).lower()} with algo.name {algo(reading)}: {reason}")
        return (NO_EFFECT if expected is None else HONOURED), reason

    return rule


def ignore_bos(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.ignore_bos: BOS is never scored, and a masked family then scores EOS."""
    typed(key, value, bool)
    if algo(reading) == "ar":
        return NO_EFFECT, "an autoregressive model never predicts BOS"
    if not value:
        refuse(
            key,
            value,
            "BOS begins every row, so there is nothing to predict; every family here sees it and none scores it; "
            "expected true",
        )
    if FAMILIES[algo(reading)] == "masked":
        reading.put("family.score_eos", True, key)
        return HONOURED, "family.score_eos: all but BOS is masked and scored"
    return HONOURED, "BOS is seen and never scored"


def sampler(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.sampler, with the samplers that algo.name allows."""
    possible = _SAMPLERS[algo(reading)]
    if value not in possible:
        refuse(key, value, f"expected {' or '.join(map(repr, possible))} with algo.name {algo(reading)}")
    if FAMILIES[algo(reading)] == "masked":
        reading.put("sampling.predictor", _MASKED_SAMPLERS[value], key)
    return HONOURED, reading.settings.get("sampling.predictor", "from left to right")


def loss_scale(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.mdlm_loss_scale: whether the loglinear schedule keeps MDLM's epsilon."""
    typed(key, value, bool)
    if algo(reading) in ("sedd", "ar"):
        return NO_EFFECT, f"the loss of algo.name {algo(reading)} has one form"
    if reading.leaves.get("noise.type") != "loglinear":
        return NO_EFFECT, "it is for noise.type loglinear"
    if value:
        return HONOURED, "loglinear with the epsilon of MDLM, 1e-3"
    if reading.leaves.get("algo.time_conditioning") is True:
        return (
            NO_EFFECT,
            "loglinear keeps its epsilon, 1e-3: the network's noise level must be finite",
        )
    reading.put("family.schedule_options", {"eps": 0.0}, key)
    return HONOURED, "family.schedule_options.eps 0: the mask probability is t"
