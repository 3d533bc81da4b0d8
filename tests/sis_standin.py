"""A small stand-in for Sisyphus, for machines without a checkout of it: enough to build a graph and to run its jobs one after another.

    import sis_standin
    REAL = sis_standin.install()                # False: `import sisyphus` now finds the stand-in
    with sis_standin.setup(folder): job = SomeJob(...); sis_standin.run_all()

`setup` and the functions behind it work with the real one too, so the same tests run with both. Ids of jobs are not those of Sisyphus.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

created_jobs: dict[str, Any] = {}
outputs: dict[str, Any] = {}
_state = types.SimpleNamespace(work="work", real=False)


def install() -> bool:
    """Whether the real Sisyphus is there; if not, put the stand-in at its place. The package of that name on PyPI is another one."""
    try:
        import sisyphus

        _state.real = hasattr(sisyphus, "tk") and not hasattr(sisyphus, "is_standin")
        if _state.real or hasattr(sisyphus, "is_standin"):
            return _state.real
    except ImportError:
        pass
    module = types.ModuleType("sisyphus")
    module.is_standin = True
    module.Job, module.Task = _Job, _Task
    module.tk = types.SimpleNamespace(
        Path=_Path, Variable=_Variable, Job=_Job, Task=_Task, register_output=outputs.__setitem__
    )
    sys.modules["sisyphus"] = module
    return False


@contextmanager
def setup(folder: Path) -> Iterator[None]:
    """An empty graph, whose jobs lie in `folder`/work."""
    before = os.getcwd()
    os.chdir(folder)
    if _state.real:
        import sisyphus.global_settings as gs
        import sisyphus.toolkit as toolkit
        from sisyphus import graph

        saved = gs.WORK_DIR, gs.WARNING_ABSPATH, gs.SHOW_JOB_TARGETS
        gs.WORK_DIR, gs.WARNING_ABSPATH, gs.SHOW_JOB_TARGETS = str(folder / "work"), False, False
        toolkit.sis_graph = graph.graph = graph.SISGraph()
    _state.work = str(folder / "work")
    _jobs().clear()
    outputs.clear()
    try:
        yield
    finally:
        os.chdir(before)
        if _state.real:
            gs.WORK_DIR, gs.WARNING_ABSPATH, gs.SHOW_JOB_TARGETS = saved


def jobs() -> list[Any]:
    """All jobs of the graph."""
    return list(_jobs().values())


def registered() -> list[str]:
    """Names of the registered outputs."""
    if not _state.real:
        return sorted(outputs)
    import sisyphus.toolkit as toolkit

    return sorted(target.name for target in toolkit.sis_graph.targets)


def job_id(job: Any) -> str:
    return job._sis_id()


def run_job(job: Any) -> None:
    """All tasks of one job, each with all its arguments, in the job's work folder."""
    job._sis_setup_directory()
    before = os.getcwd()
    os.chdir(Path(_state.work) / job_id(job) / "work")
    try:
        for task in job.tasks():
            for args in task._args:
                getattr(job, task._start)(*(args if isinstance(args, (list, tuple)) else [args]))
    finally:
        os.chdir(before)


def run_all() -> int:
    """Run every job once its inputs are there; returns how many ran."""
    todo, done = jobs(), set()
    while todo:
        ready = [job for job in todo if all(path.creator is None or path.creator in done for path in job._sis_inputs)]
        assert ready, f"nothing can run of {todo}"
        for job in ready:
            run_job(job)
        done.update(ready)
        todo = [job for job in todo if job not in done]
    return len(done)


def _jobs() -> dict[str, Any]:
    if not _state.real:
        return created_jobs
    from sisyphus import job

    return job.created_jobs


class _Path:
    def __init__(self, path: str, creator: Any = None, hash_overwrite: str | None = None):
        self.path, self.creator, self.hash_overwrite = path, creator, hash_overwrite

    def get_path(self) -> str:
        return (
            f"{_state.work}/{self.creator._sis_id()}/output/{self.path}" if self.creator else os.path.abspath(self.path)
        )

    def get(self) -> Any:
        return self.get_path()

    def __repr__(self) -> str:
        return f"Path({self.hash_overwrite or (self.creator and self.creator._sis_id(), self.path)})"


class _Variable(_Path):
    def get(self) -> Any:
        return ast.literal_eval(Path(self.get_path()).read_text())

    def set(self, value: Any) -> None:
        Path(self.get_path()).write_text(f"{value!r}\n")


class _Task:
    def __init__(
        self, start: str, resume: str | None = None, rqmt: Any = None, args: Any = None, mini_task: bool = False
    ):
        self._start, self._resume, self._args = start, resume, [[]] if args is None else list(args)
        self._rqmt = {**(rqmt or {}), **({"engine": "short"} if mini_task else {})}


class _Singleton(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        name = f"{cls.__module__.replace('.', '/')}/{cls.__name__}.{cls.hash(arguments)}"
        if name not in created_jobs:
            job = cls.__new__(cls)
            job._id, job._folders, job._aliases = name, [], []
            job.__init__(*args, **kwargs)
            job._sis_inputs = {path for path in _paths([job.__dict__, arguments]) if path.creator is not job}
            created_jobs[name] = job
        return created_jobs[name]


class _Job(metaclass=_Singleton):
    __sis_hash_exclude__: dict[str, Any] = {}  # noqa: RUF012

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        counted = {k: v for k, v in parsed_args.items() if cls.__sis_hash_exclude__.get(k, ...) != v}
        return hashlib.sha256(repr(sorted(counted.items())).encode()).hexdigest()[:12]

    def _sis_id(self) -> str:
        return self._id

    def _sis_setup_directory(self) -> None:
        for part in ("work", "output", *self._folders):
            (Path(_state.work) / self._id / part).mkdir(parents=True, exist_ok=True)

    def output_path(self, name: str, directory: bool = False) -> _Path:
        self._folders += [f"output/{name}"] if directory else []
        return _Path(name, self)

    def output_var(self, name: str) -> _Variable:
        return _Variable(name, self)

    def add_alias(self, name: str) -> Any:
        self._aliases.append(name)
        return self


def _paths(value: Any) -> Iterator[_Path]:
    if isinstance(value, _Path):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _paths(item)
