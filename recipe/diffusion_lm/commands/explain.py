"""All settings of a training run as a page: every key with its default and the sentence below its field.

    print(settings_page())          # `dlm train --explain`

docs/configuration.md is this page.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from diffusion_lm.backbones import NETWORKS
from diffusion_lm.config import TrainConfig
from diffusion_lm.families import FAMILIES
from diffusion_lm.strict import plain

BEGINNING = """# Settings

Every setting of `dlm train` with its default, as `dlm train --explain` prints it. A setting is given as
`section.key=value` on the command line, where the value is YAML, or in a file for `--config`. A preset sets some of
them to other values: `dlm train --preset NAME --print-config` shows the result. An unknown key is an error.
`model.network` and `family.name` choose the network and the family, whose keys are in sections of their own here.
"""


def settings_page() -> str:
    """The page, in Markdown."""
    parts = [BEGINNING, "## Without a section\n", *_table(TrainConfig, "")]
    for field in dataclasses.fields(TrainConfig):
        if _is_section(field) and field.name not in ("model", "family"):
            parts += _section(field.name, type(field.default), f"{field.name}.")
    for name, network in NETWORKS.items():
        parts += _section(f"model, for network {name}", network.config, "model.")
    for name, family in FAMILIES.items():
        parts += _section(f"family, for name {name}", family, "family.")
    return "\n".join(parts) + "\n"


def _section(title: str, kind: type, prefix: str) -> list[str]:
    summary = " ".join((kind.__doc__ or "").split())
    return [f"\n## {title}\n", f"{summary}\n", *(_table(kind, prefix) or ["It has no settings."])]


def _is_section(field: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(field.default) or field.name == "family"


def _table(kind: type, prefix: str) -> list[str]:
    """The lines of the table of a dataclass, without its sections; none if it has no field with a default."""
    sentences = dict(_sentences(kind))
    rows = [
        f"| `{prefix}{field.name}` | `{json.dumps(plain(_default(field)))}` | {sentences[field.name]} |"
        for field in dataclasses.fields(kind)
        if _default(field) is not dataclasses.MISSING and not _is_section(field)
    ]
    return ["| key | default | what |", "|---|---|---|", *rows] if rows else []


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _sentences(kind: type) -> Iterator[tuple[str, str]]:
    """The fields of a class and its bases with the strings below them, those of the class itself last."""
    for owner in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:]):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(sentence))):
                    yield name, " ".join(sentence.split()).replace("|", "\\|")
