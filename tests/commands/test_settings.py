"""settings.py, run as Sisyphus runs it: as text inside a module that has its own settings already."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """The settings as a namespace, with a `sinfo` and an `sbatch` that stand in for Slurm's."""
    for name, body in (
        ("sinfo", "echo '64 256000+ 2-12:00:00'; echo '16 512000 30:00'; echo '8 1000 1:00:00'"),
        ("sbatch", "exit 1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("DLM_ENGINE", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(ROOT)
    space = {
        "DEFAULT_ENVIRONMENT_SET": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "PATH": "/bin", "LANG": "x"},
        "DEFAULT_ENVIRONMENT_KEEP": {"HOME"},
        "active_engine": None,
        "SIS_COMMAND": ["/usr/bin/python3", "/sisyphus/sis"],
    }
    exec(compile((ROOT / "settings.py").read_text(), "settings.py", "exec"), space)
    return SimpleNamespace(**space)


def test_paths_are_absolute_and_threads_are_left_to_the_jobs(settings):
    assert all(os.path.isabs(path) for path in settings.IMPORT_PATHS)
    assert {"config", "recipe/", ""} <= {path.removeprefix(f"{ROOT}/") for path in settings.IMPORT_PATHS}
    assert not [name for name in settings.DEFAULT_ENVIRONMENT_SET if name.endswith("NUM_THREADS")]
    assert settings.DEFAULT_ENVIRONMENT_SET["PATH"].startswith(os.path.dirname(sys.executable) + ":")
    assert {"HOME", "LD_LIBRARY_PATH"} <= settings.DEFAULT_ENVIRONMENT_KEEP


def test_requests_are_cut_to_the_largest_there_is_but_never_gpus(settings):
    asked = {"cpu": 100, "mem": 1000, "time": 500, "gpu": 9}
    assert settings.check_engine_limits(dict(asked), "task") == {"cpu": 64, "mem": 500, "time": 60, "gpu": 9}
    modest = {"cpu": 2, "mem": 4, "time": 1}
    assert settings.check_engine_limits(dict(modest), "task") == modest


def test_a_refusal_is_an_error_with_the_reason_in_the_log(settings, tmp_path):
    call = ["python", "sis", "worker", "--engine", "long", str(tmp_path), "run"]
    settings._refuse(call, "run", [2], {"gpu": 9}, "no such node")
    assert (tmp_path / "log.run.2").read_text().startswith("Not started: no such node\n")
    assert (tmp_path / "error.run.2").exists()


def test_gpu_memory_chooses_a_type_or_is_refused(settings):
    space = settings._gpu_type.__globals__
    with pytest.raises(ValueError, match="gpu_mem 24: expected at most that of GPU_TYPES in settings.py"):
        settings._gpu_type({"gpu": 1, "gpu_mem": 24})
    space["GPU_TYPES"] = {11: "gtx", 24: "rtx", 80: "h100"}
    chosen = {memory: settings._gpu_type({"gpu": 1, "gpu_mem": memory}) for memory in (0, 8, 24, 25)}
    assert chosen == {0: "", 8: "gtx", 24: "rtx", 25: "h100"}
    assert settings._gpu_type({"gpu": 1, "gpu_mem": 8, "gpu_name": "mine"}) == "mine"
    assert settings._gpu_type({"gpu": 0, "gpu_mem": 800}) == ""
    with pytest.raises(ValueError, match="gpu_mem 81"):
        settings._gpu_type({"gpu": 1, "gpu_mem": 81})


def test_this_machine_refuses_what_it_does_not_have(settings):
    assert settings._why_not_here({"gpu": 0, "cpu": 3}, 0) == ""
    assert "this machine gives 0" in settings._why_not_here({"gpu": 1}, 0)
    assert "asks for GPUs of 24 GB, here they have 0" in settings._why_not_here({"gpu": 1, "gpu_mem": 24}, 1)
    settings._why_not_here.__globals__["LOCAL_GPU_MEM"] = 24
    assert settings._why_not_here({"gpu": 1, "gpu_mem": 24}, 1) == ""
    assert "2 nodes" in settings._why_not_here({"multi_node_slots": 2}, 0)


def test_jobs_run_in_the_python_and_with_the_returnn_of_the_site(settings, monkeypatch):
    assert [sys.executable, "/sisyphus/sis"] == settings.SIS_COMMAND
    monkeypatch.setenv("DLM_PYTHON", "/venv/bin/python")
    monkeypatch.setenv("DLM_RETURNN_ROOT", "/src/returnn")
    space = {
        "DEFAULT_ENVIRONMENT_SET": {"PATH": "/bin"},
        "DEFAULT_ENVIRONMENT_KEEP": set(),
        "SIS_COMMAND": ["python", "sis"],
    }
    exec(compile((ROOT / "settings.py").read_text(), "settings.py", "exec"), space)
    assert space["SIS_COMMAND"] == ["env", "PYTHONPATH=/src/returnn", "/venv/bin/python", "sis"]
    assert space["DEFAULT_ENVIRONMENT_SET"]["PYTHONPATH"] == "/src/returnn"
    assert space["DEFAULT_ENVIRONMENT_SET"]["PATH"] == "/venv/bin:/bin"


@pytest.mark.parametrize(
    "log, goes_on",
    [
        ("Start Job\nstep 20/200\n", True),
        ("Job failed\nTraceback (most recent call last):\nRETRY OR CONTINUE TASK\nstep 30\n", True),
        ("Job failed, traceback:\nTraceback (most recent call last):\n", False),
        ("Not started: Slurm refuses it\n", False),
    ],
)
def test_on_this_machine_a_killed_task_goes_on_and_a_failed_one_does_not(settings, tmp_path, log, goes_on):
    (tmp_path / "log.run.1").write_text(log)
    (tmp_path / "error.run.1").touch()
    task = SimpleNamespace(resumeable=lambda: True, task_ids=lambda: [1], name=lambda: "run", reset_cache=lambda: None)
    job = SimpleNamespace(_sis_tasks=lambda: [task], _sis_path=lambda name, number: f"{tmp_path}/{name}.{number}")
    settings.on_job_failure(job)
    assert (tmp_path / "error.run.1").exists() != goes_on


def test_what_is_wrong_stands_above_the_traceback(settings, capsys):
    try:
        raise ValueError("hyps.py:3: got\nthis; expected that")
    except ValueError as error:
        settings._say_first(ValueError, error, error.__traceback__)
    assert capsys.readouterr().err.startswith("error: hyps.py:3: got this; expected that\nTraceback")
