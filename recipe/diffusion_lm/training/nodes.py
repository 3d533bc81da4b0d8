"""Where the processes of a training on several nodes of Slurm meet.

    environment = {**os.environ, **node_environment(os.environ)}        # for `dlm train` on each node

Lightning reads these variables and starts a process for each further device of the node. It does not use Slurm itself,
because it would need one task of Slurm per device.
"""

from __future__ import annotations

from collections.abc import Mapping

_FIRST_PORT, _PORTS = 20_000, 10_000


def node_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """MASTER_ADDR, MASTER_PORT and NODE_RANK for this node of a batch job that runs one task per node with `srun`.

    slurm: environment of the task. ValueError if it is not one of such a job.
    """
    names = ("SLURM_PROCID", "SLURM_LAUNCH_NODE_IPADDR", "SLURM_JOB_ID")
    missing = [name for name in names if not slurm.get(name)]
    if missing:
        raise ValueError(
            f"training on several nodes: {', '.join(missing)} is not set; expected a task of Slurm with its environment"
            " (DEFAULT_ENVIRONMENT_KEEP in settings.py)"
        )
    rank, address, job = (slurm[name] for name in names)
    # A batch job calls srun on its first node, which runs task 0. Jobs that share a node get different ports.
    return {"MASTER_ADDR": address, "MASTER_PORT": str(_FIRST_PORT + int(job) % _PORTS), "NODE_RANK": rank}
