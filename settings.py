"""Settings of Sisyphus for a clone of this repository; `sis` reads this file in the folder it is started in.

Slurm where there is `sbatch`, else this machine; `DLM_ENGINE=local` in the environment chooses this machine too. A request that the
cluster can not meet ends as an error of its job, with Slurm's own words in the log, and is not sent again.
"""

import logging
import os
import shutil
import subprocess
import sys

# ---- what a site may want to change ---------------------------------------------------------------------------------------------

# The most a task may ask for; more is cut to this (but never GPUs: their number changes what is computed). None: as Slurm says.
MOST = {"cpu": None, "mem": None, "time": None}  # CPUs, GB, hours
DEFAULT_RQMT = {"cpu": 1, "mem": 2, "gpu": 0, "time": 1}
LOCAL_GPUS = int(os.environ.get("DLM_LOCAL_GPUS", "0"))  # that jobs on this machine may use

# ---- where things are -----------------------------------------------------------------------------------------------------------

ROOT = os.getcwd()  # not __file__: Sisyphus runs this text inside its own module
# Absolute, because tasks run in folders of their own. The last entry holds rescore/.
IMPORT_PATHS = [f"{ROOT}/config", f"{ROOT}/recipe", f"{ROOT}/recipe/", f"{ROOT}/"]
WORK_DIR = "work"
JOB_AUTO_CLEANUP = True
JOB_CLEANUP_KEEP_WORK = False
WARNING_ABSPATH = False
USE_VERBOSE_TRACEBACK = False  # a job's error is to be read in ten lines
SHOW_JOB_TARGETS = False

# ---- environment of the jobs ----------------------------------------------------------------------------------------------------

# `DEFAULT_ENVIRONMENT_*` are there already. Threads are set by the jobs, to the CPUs that they asked for.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    DEFAULT_ENVIRONMENT_SET.pop(_name, None)  # noqa: F821
DEFAULT_ENVIRONMENT_SET["PATH"] = os.path.dirname(sys.executable) + ":" + DEFAULT_ENVIRONMENT_SET["PATH"]  # noqa: F821
DEFAULT_ENVIRONMENT_SET["LANG"] = "C.UTF-8"  # noqa: F821
DEFAULT_ENVIRONMENT_KEEP |= {"LD_LIBRARY_PATH", "HF_HOME"}  # noqa: F821

# ---- errors ---------------------------------------------------------------------------------------------------------------------


def _say_first(kind, error, trace):
    """In the log of a job, what is wrong stands above the traceback, in one line."""
    if issubclass(kind, (ValueError, OSError)):
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _say_first

# ---- engines --------------------------------------------------------------------------------------------------------------------


def engine():
    """Short tasks here, the rest on Slurm, or all here."""
    from sisyphus.engine import EngineSelector

    # A compute node may lack sbatch; a worker there has to know its engine nevertheless.
    slurm = shutil.which("sbatch") or "SLURM_JOB_ID" in os.environ
    if os.environ.get("DLM_ENGINE", "slurm" if slurm else "local") == "local":
        here = _local_engine(os.cpu_count(), LOCAL_GPUS)
        return EngineSelector(engines={"short": here, "long": here}, default_engine="long")
    return EngineSelector(engines={"short": _local_engine(4, 0), "long": _slurm_engine()}, default_engine="long")


def _local_engine(cpus, gpus):
    from sisyphus.engine import DeferSubmission
    from sisyphus.localengine import LocalEngine

    class Local(LocalEngine):
        def submit_call(self, call, logpath, rqmt, name, task_name, task_ids):
            if rqmt.get("gpu", 0) > self.max_resources["gpu"]:
                told = f"it asks for {rqmt['gpu']} GPUs, this machine gives {self.max_resources['gpu']} (LOCAL_GPUS in settings.py)"
                _refuse(call, task_name, task_ids, rqmt, told)
                raise DeferSubmission(told)
            return super().submit_call(call, logpath, rqmt, name, task_name, task_ids)

    return Local(cpus=cpus, gpus=gpus, available_gpus=",".join(map(str, range(gpus))))


def _slurm_engine():
    from sisyphus.engine import DeferSubmission
    from sisyphus.simple_linux_utility_for_resource_management_engine import (
        SimpleLinuxUtilityForResourceManagementEngine,
    )

    class Slurm(SimpleLinuxUtilityForResourceManagementEngine):
        """Sisyphus' engine sends what sbatch has refused again at once, for ever. Here a refusal is an error of the job."""

        told = ""

        def system_call(self, command, send_to_stdin=None):
            out, err, status = super().system_call(command, send_to_stdin)
            if command[0] == "sbatch":
                self.told = "" if status == 0 else b" ".join(err).decode("utf-8", "replace")
            return out, err, status

        def submit_call(self, call, logpath, rqmt, name, task_name, task_ids):
            engine, submitted = super().submit_call(call, logpath, rqmt, name, task_name, task_ids)
            if all(job_id is not None for _, job_id in submitted):
                return engine, submitted
            busy = ("timed out", "Unable to contact", "temporarily", "Connection refused", "QOSMaxSubmit")
            if not any(word in self.told for word in busy):
                refused = [task_id for ids, job_id in submitted if job_id is None for task_id in ids]
                _refuse(call, task_name, refused, rqmt, f"Slurm refuses it: {self.told}")
            raise DeferSubmission(self.told)

    return Slurm(default_rqmt=DEFAULT_RQMT)


def _refuse(call, task_name, task_ids, rqmt, why):
    """The task is in error, with the reason in its log."""
    folder = call[call.index(task_name, call.index("worker")) - 1]
    for task_id in task_ids:
        log = f"{folder}/log.{task_name}.{task_id}"
        with open(log, "a") as file:
            file.write(
                f"Not started: {why}\nRequested: {rqmt}\nChange the job's rqmt, remove {folder}/error.*, start again.\n"
            )
        if not os.path.exists(f"{folder}/error.{task_name}.{task_id}"):
            os.link(log, f"{folder}/error.{task_name}.{task_id}")


def _slurm_limits():
    """CPUs, GB and hours of the largest node and the most patient partition; {} where sinfo does not say."""
    limits = {}
    try:
        call = ["sinfo", "--noheader", "--format=%c %m %l"]
        lines = subprocess.run(call, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return limits
    for line in lines:
        cpus, megabytes, time = line.replace("+", "").split()
        days, _, clock = time.rpartition("-")
        parts = [int(part) for part in clock.split(":")] if clock[:1].isdigit() else []
        hours = (
            float("inf") if not parts else int(days or 0) * 24 + parts[0] if days or len(parts) == 3 else parts[0] / 60
        )
        found = {"cpu": int(cpus), "mem": int(megabytes) // 1024, "time": hours}
        limits = {key: max(value, limits.get(key, 0)) for key, value in found.items()}
    return limits


def check_engine_limits(current_rqmt, task):
    """Cut what is more than there is. GPUs are not cut: fewer of them would be another experiment."""
    if active_engine is not None:  # noqa: F821  in a worker: it runs already
        return current_rqmt
    local = (
        current_rqmt.get("engine") == "short" or os.environ.get("DLM_ENGINE") == "local" or not shutil.which("sbatch")
    )
    if local:
        there = {"cpu": os.cpu_count()}
    else:
        global _LIMITS
        if _LIMITS is None:
            _LIMITS = {**_slurm_limits(), **{key: value for key, value in MOST.items() if value is not None}}
        there = _LIMITS
    for key, most in there.items():
        if current_rqmt.get(key, 0) > most:
            logging.warning("%s: %s %s cut to %s, the most there is", task, key, current_rqmt[key], most)
            current_rqmt[key] = most
    return current_rqmt


_LIMITS = None


def on_job_failure(job):
    """On this machine a killed task counts as failed, on Slurm as interrupted. Make it interrupted here too: it goes on from its checkpoint.

    How often is up to Sisyphus (MAX_SUBMIT_RETRIES, as long as there is no progress). An error of the program stays one.
    """
    for task in job._sis_tasks():
        if not task.resumeable():
            continue
        for task_id in task.task_ids():
            error = job._sis_path(f"error.{task.name()}", task_id)
            log = job._sis_path(f"log.{task.name()}", task_id)
            if not (os.path.isfile(error) and os.path.isfile(log)):
                continue
            with open(log, errors="replace") as file:
                last = file.read().rpartition("RETRY OR CONTINUE TASK")[2]
            if (
                "Traceback (most recent call last)" not in last
                and "Executed command failed" not in last
                and "Not started:" not in last
            ):
                logging.info("%s was killed; it goes on from where it was", task)
                os.remove(error)
                task.reset_cache()
