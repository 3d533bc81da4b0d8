"""A training on several nodes: where they meet, and that two nodes train like two devices of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from diffusion_lm.config import to_dict
from diffusion_lm.training.nodes import node_environment
from training_runs import config_of, weights

SLURM = {"SLURM_PROCID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.1.2.3", "SLURM_JOB_ID": "1234567"}


def test_nodes_meet_where_the_first_one_is():
    found = node_environment(SLURM)
    assert found == {"MASTER_ADDR": "10.1.2.3", "MASTER_PORT": "24567", "NODE_RANK": "1"}
    first = node_environment({**SLURM, "SLURM_PROCID": "0"})
    assert {**first, "NODE_RANK": "1"} == found
    assert node_environment({**SLURM, "SLURM_JOB_ID": "1234568"})["MASTER_PORT"] != found["MASTER_PORT"]


@pytest.mark.parametrize("name", SLURM)
def test_a_task_without_its_environment_is_an_error(name):
    with pytest.raises(ValueError, match=f"{name} is not set; expected a task of Slurm with its environment"):
        node_environment({key: value for key, value in SLURM.items() if key != name})


@pytest.mark.slow
def test_two_nodes_train_like_two_devices(vocab_folder, text_file, tmp_path):
    """The job starts the verb on each node with these variables; here both are this machine."""
    root = Path(__file__).parents[2]
    common = {**os.environ, "PYTHONPATH": f"{root / 'recipe'}:{root}", "OMP_NUM_THREADS": "1"}
    runs = {"devices": [{}], "num_nodes": []}
    for rank in ("0", "1"):
        slurm = {"SLURM_PROCID": rank, "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1", "SLURM_JOB_ID": str(os.getpid())}
        runs["num_nodes"].append({**slurm, **node_environment(slurm)})
    for kind, environments in runs.items():
        extra = [f"trainer.{kind}=2", "trainer.accelerator=cpu", "trainer.max_steps=5", "trainer.val_check_interval=5"]
        file = tmp_path / f"{kind}.yaml"
        file.write_text(yaml.safe_dump(to_dict(config_of(vocab_folder, text_file, *extra))))
        command = [sys.executable, "-m", "diffusion_lm", "train", "--config", str(file), "--out", str(tmp_path / kind)]
        started = [
            subprocess.Popen(command, env=common | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for own in environments
        ]
        for process in started:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
    one, two = (weights(tmp_path / kind / "model") for kind in runs)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
