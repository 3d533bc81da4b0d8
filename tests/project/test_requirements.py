"""The list with hashes that is installed is the list of versions, but for torch; and torch loads weights safely."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def normal(name: str) -> str:
    """The name of a package as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_pinned_package_but_torch_has_a_hash() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    entries = (ROOT / "requirements.txt").read_text().replace("\\\n", " ").splitlines()
    hashed = {}
    for entry in entries:
        requirement, *hashes = entry.split()
        name, version = requirement.split("==")
        assert hashes and all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", found) for found in hashes), requirement
        hashed[name] = version
    expected = {normal(name): version for name, version in pinned.items() if name != "torch"}
    assert {normal(name): version for name, version in hashed.items()} == expected, "expected: make hashes"


def test_every_requirement_is_pinned() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["dev"]
    names = {normal(re.split("[<>=]", line)[0]) for line in wanted.split()}
    pinned = {normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names <= pinned and "torch>=2.6" in wanted.split()
