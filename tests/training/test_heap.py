"""Memory that was freed is used again without asking the kernel for it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from diffusion_lm.training.process import keep_heap
if sys.argv[1] == "kept":
    keep_heap()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(10):
        torch.empty(1 << 24).fill_(1)
counts = []
for _ in range(6):
    before = faults()
    work()
    counts.append(faults() - before)
# A small allocation may take a corner of a freed block, and the next tensor then needs new pages: not in every round.
print(min(counts))
"""


def faults(how, **environment):
    clean = {key: value for key, value in os.environ.items() if "MALLOC" not in key and key != "GLIBC_TUNABLES"}
    clean["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**clean, **environment}).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc's malloc")
def test_pages_of_freed_tensors_are_kept_and_the_users_settings_are_left_alone():
    assert 100 * faults("kept") < faults("given back")
    assert faults("kept", MALLOC_MMAP_THRESHOLD_="100000") > 1000
