"""Sisyphus settings for a clone of this repository; `sis` reads this file in the folder where it is started.

Jobs run on Slurm if `sbatch` exists, otherwise on this machine; `DLM_ENGINE=local` in the environment selects this
machine too. If Slurm rejects a request, its job ends in the error state with Slurm's message in the log, and is not
resubmitted.
"""

import logging
import os
import shutil
import subprocess
import sys

# ---- settings that a site may want to change ---------------------------------------------------------------

# Largest request of a task; larger ones are reduced to it. GPUs are never reduced, because their number changes the
# result. None: the limit that Slurm reports.
MOST = {"cpu": None, "mem": None, "time": None}  # CPUs, GB, hours
DEFAULT_RQMT = {"cpu": 1, "mem": 2, "gpu": 0, "time": 1}
LOCAL_GPUS = int(os.environ.get("DLM_LOCAL_GPUS", "0"))  # GPUs that jobs on this machine may use
LOCAL_GPU_MEM = int(os.environ.get("DLM_LOCAL_GPU_MEM", "0"))  # GB of each of them
# GPU types of the cluster by their memory in GB, as in --gres=gpu:TYPE:1, such as {24: "rtx_3090", 80: "h100"}. A job
# with rqmt["gpu_mem"] gets the smallest type that has as much.
GPU_TYPES = {}
# Python of the jobs, with the packages that they need, and a RETURNN checkout to use instead of the installed package.
PYTHON = os.environ.get("DLM_PYTHON", sys.executable)
RETURNN_ROOT = os.environ.get("DLM_RETURNN_ROOT", "")

# ---- paths -------------------------------------------------------------------------------------------------

ROOT = os.getcwd()  # not __file__, because Sisyphus executes this text inside its settings module
# Absolute paths, because each task runs in another folder. The last entry contains rescore/.
IMPORT_PATHS = [f"{ROOT}/config", f"{ROOT}/recipe", f"{ROOT}/recipe/", f"{ROOT}/"]
WORK_DIR = "work"
JOB_AUTO_CLEANUP = True
JOB_CLEANUP_KEEP_WORK = False
WARNING_ABSPATH = False
USE_VERBOSE_TRACEBACK = False  # so that a job's error fits into ten lines
SHOW_JOB_TARGETS = False

# ---- environment of the jobs -------------------------------------------------------------------------------

# Sisyphus defines `DEFAULT_ENVIRONMENT_*`. Jobs set the number of threads to the number of CPUs that they request.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    DEFAULT_ENVIRONMENT_SET.pop(_name, None)  # noqa: F821
DEFAULT_ENVIRONMENT_SET["PATH"] = os.path.dirname(PYTHON) + ":" + DEFAULT_ENVIRONMENT_SET["PATH"]  # noqa: F821
DEFAULT_ENVIRONMENT_SET["LANG"] = "C.UTF-8"  # noqa: F821
DEFAULT_ENVIRONMENT_KEEP |= {"LD_LIBRARY_PATH", "HF_HOME"}  # noqa: F821
# Where the nodes of a training meet.
DEFAULT_ENVIRONMENT_KEEP |= {"SLURM_PROCID", "SLURM_LAUNCH_NODE_IPADDR", "SLURM_JOB_ID"}
os.environ.setdefault("SLURM_KILL_BAD_EXIT", "1")  # if the training fails on one node, the other nodes do not wait
SIS_COMMAND = [PYTHON, *SIS_COMMAND[1:]]  # noqa: F821
if RETURNN_ROOT:
    DEFAULT_ENVIRONMENT_SET["PYTHONPATH"] = RETURNN_ROOT  # noqa: F821
    SIS_COMMAND = ["env", f"PYTHONPATH={RETURNN_ROOT}", *SIS_COMMAND]

# ---- errors ------------------------------------------------------------------------------------------------


def _say_first(kind, error, trace):
    """Print the error in one line above the traceback in the log of a job."""
    if issubclass(kind, (ValueError, OSError)):
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _say_first

# ---- engines -----------------------------------------------------------------------------------------------


def engine():
    """The engine: short tasks run on this machine, all others on Slurm if there is Slurm."""
    from sisyphus.engine import EngineSelector

    # A compute node may lack sbatch, but a worker there still has to select the Slurm engine.
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
            reason = _why_not_here(rqmt, self.max_resources["gpu"])
            if reason:
                _refuse(call, task_name, task_ids, rqmt, reason)
                raise DeferSubmission(reason)
            return super().submit_call(call, logpath, rqmt, name, task_name, task_ids)

    return Local(cpus=cpus, gpus=gpus, available_gpus=",".join(map(str, range(gpus))))


def _why_not_here(rqmt, gpus):
    """Why this machine can not run a task; "" if it can."""
    if rqmt.get("gpu", 0) > gpus:
        return f"it asks for {rqmt['gpu']} GPUs, this machine gives {gpus} (LOCAL_GPUS in settings.py)"
    if rqmt.get("gpu", 0) and rqmt.get("gpu_mem", 0) > LOCAL_GPU_MEM:
        return (
            f"it asks for GPUs of {rqmt['gpu_mem']} GB, here they have {LOCAL_GPU_MEM} (LOCAL_GPU_MEM in settings.py)"
        )
    if rqmt.get("multi_node_slots", 1) > 1:
        return f"it asks for {rqmt['multi_node_slots']} nodes, this is one machine"
    return ""


def _gpu_type(rqmt):
    """The name of the GPU type for rqmt["gpu_mem"] (GB), "" if any will do. ValueError if none has as much memory."""
    if rqmt.get("gpu_name") or not (rqmt.get("gpu", 0) and rqmt.get("gpu_mem", 0)):
        return rqmt.get("gpu_name", "")
    enough = [memory for memory in GPU_TYPES if memory >= rqmt["gpu_mem"]]
    if not enough:
        raise ValueError(f"gpu_mem {rqmt['gpu_mem']}: expected at most that of GPU_TYPES in settings.py, {GPU_TYPES}")
    return GPU_TYPES[min(enough)]


def _slurm_engine():
    from sisyphus.engine import DeferSubmission
    from sisyphus.simple_linux_utility_for_resource_management_engine import (
        SimpleLinuxUtilityForResourceManagementEngine,
    )

    class Slurm(SimpleLinuxUtilityForResourceManagementEngine):
        """Makes a rejected submission an error of the job; Sisyphus' engine would resubmit it at once, for ever."""

        message = ""

        def system_call(self, command, send_to_stdin=None):
            out, err, status = super().system_call(command, send_to_stdin)
            if command[0] == "sbatch":
                self.message = "" if status == 0 else b" ".join(err).decode("utf-8", "replace")
            return out, err, status

        def submit_call(self, call, logpath, rqmt, name, task_name, task_ids):
            try:
                rqmt = {**rqmt, "gpu_name": _gpu_type(rqmt)}
            except ValueError as error:
                _refuse(call, task_name, task_ids, rqmt, str(error))
                raise DeferSubmission(str(error)) from None
            engine, submitted = super().submit_call(call, logpath, rqmt, name, task_name, task_ids)
            if all(job_id is not None for _, job_id in submitted):
                return engine, submitted
            busy = ("timed out", "Unable to contact", "temporarily", "Connection refused", "QOSMaxSubmit")
            if not any(word in self.message for word in busy):
                refused = [task_id for ids, job_id in submitted if job_id is None for task_id in ids]
                _refuse(call, task_name, refused, rqmt, f"Slurm refuses it: {self.message}")
            raise DeferSubmission(self.message)

    return Slurm(default_rqmt=DEFAULT_RQMT)


def _refuse(call, task_name, task_ids, rqmt, why):
    """Put the tasks into the error state, with the reason in their logs."""
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
    """The largest CPUs, GB and hours of any node and partition; {} if sinfo fails."""
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
        offered = {"cpu": int(cpus), "mem": int(megabytes) // 1024, "time": hours}
        limits = {key: max(value, limits.get(key, 0)) for key, value in offered.items()}
    return limits


def check_engine_limits(current_rqmt, task):
    """Reduce requests that exceed the limits, except GPUs, because their number changes the experiment."""
    if active_engine is not None:  # noqa: F821  in a worker, whose task runs already
        return current_rqmt
    local = (
        current_rqmt.get("engine") == "short" or os.environ.get("DLM_ENGINE") == "local" or not shutil.which("sbatch")
    )
    if local:
        limits = {"cpu": os.cpu_count()}
    else:
        global _LIMITS
        if _LIMITS is None:
            _LIMITS = {**_slurm_limits(), **{key: value for key, value in MOST.items() if value is not None}}
        limits = _LIMITS
    for key, most in limits.items():
        if current_rqmt.get(key, 0) > most:
            logging.warning("%s: %s %s cut to %s, the most there is", task, key, current_rqmt[key], most)
            current_rqmt[key] = most
    return current_rqmt


_LIMITS = None


def on_job_failure(job):
    """Treat a killed task of the local engine as interrupted, as on Slurm, so that it continues from its checkpoint.

    Sisyphus limits the number of retries without progress (MAX_SUBMIT_RETRIES). An error of the program stays an error.
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
