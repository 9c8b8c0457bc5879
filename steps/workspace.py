"""`pipeline/store` as Tango's Workspace: state is read from lease, manifest and record."""

from __future__ import annotations

import getpass
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult

import petname
import tango.workspaces  # noqa: F401  registers "local" first, so that ours can take its place
from rich.markup import escape
from tango.common.exceptions import CliRunError
from tango.common.logging import cli_logger, log_exception
from tango.step import Step
from tango.step_cache import StepCache
from tango.step_info import EnvironmentMetadata, PlatformMetadata, StepInfo
from tango.workspace import Run, Workspace

from pipeline.core.artifacts import Artifact
from pipeline.core.files import write_json
from pipeline.store.leases import run_lease
from pipeline.store.remote import Remote
from pipeline.store.results import Results
from pipeline.store.sharing import follow_mode
from steps.execution.logs import RUN_LOG, file_name, log_file
from steps.graph.references import WiringError, require_name

OUT_LOG = "out.log"
MIN_FREE_BYTES = 1 << 16  # for the notes of a run


class ResultCache(StepCache):
    """A step is cached when its manifest stands; results are always read back, never kept.

    In a strict workspace the code must be the one that made it, too.
    """

    def __init__(self, results: Results) -> None:
        self.results = results

    def __contains__(self, step: Any) -> bool:
        if not hasattr(step, "UNKEYED") and isinstance(step, Step):
            return False  # somebody else's, which cannot be stored here
        if not isinstance(step, (Step, StepInfo)) or step.unique_id not in self.results:
            return False
        return not self.results.is_stale(step.unique_id, getattr(step, "code", None))

    def __getitem__(self, step: Any) -> Artifact:
        return self.results.load(step.unique_id)

    def __setitem__(self, step: Step[Any], value: Any) -> None:
        raise ValueError(f"step {step.name} is not a PipelineStep; its result cannot be stored")

    def __delitem__(self, step: Any) -> None:
        shutil.rmtree(self.results.folder(step.unique_id))

    def __len__(self) -> int:
        return sum(1 for _ in self.results)


@Workspace.register("local", exist_ok=True)
class ResultWorkspace(Workspace):
    """Results in one folder that can be moved, copied and looked at.

    Args:
        dir: the folder; relative to the working directory.
        strict: whether a step is made again when the code that makes it has changed, though its
            version has not; the environment variable OLMO_STRICT=1 says so as well.
        remote: URL of a cache that machines share (`s3://bucket/prefix`, `gs://…`, a folder). What
            stands there is pulled instead of made; nothing is pushed without `olmo push`.
    """

    preflight: Callable[[Iterable[Step[Any]]], None] | None = None  # set by who will run the steps

    def __init__(self, dir: str, strict: bool = False, remote: str | None = None) -> None:
        super().__init__()
        self.dir = Path(dir).resolve()
        follow_mode(self.dir)
        self.results = Results(self.dir, strict=strict or is_strict())
        if remote is not None and "://" not in remote:
            remote = str(Path(remote).resolve())
        self.remote = None if remote is None else Remote(remote)
        self._cache = ResultCache(self.results)

    @property
    def url(self) -> str:
        return f"local://{self.dir}"

    @classmethod
    def from_parsed_url(cls, parsed_url: ParseResult) -> Workspace:
        return cls(
            os.path.join(parsed_url.netloc, parsed_url.path.lstrip("/"))
            if parsed_url.netloc
            else parsed_url.path or "."
        )

    @property
    def step_cache(self) -> StepCache:
        return self._cache

    def work_dir(self, step: Step[Any]) -> Path:
        if not hasattr(step, "UNKEYED"):
            raise ValueError(f"step {step.name} is not a PipelineStep; its result cannot be stored")
        return self.results.work(step.unique_id)

    def step_info(self, step_or_unique_id: Step[Any] | str) -> StepInfo:
        step = None if isinstance(step_or_unique_id, str) else step_or_unique_id
        id = (
            step_or_unique_id if isinstance(step_or_unique_id, str) else step_or_unique_id.unique_id
        )
        folder = self.results.folder(id)
        info = StepInfo(
            unique_id=id,
            step_class_name=id.split("-")[0],
            dependencies={d.unique_id for d in step.dependencies} if step else set(),
            cacheable=True,
            step_name=step.name if step else None,
            version=id.split("-")[1],
            platform=PlatformMetadata(user=_user()),
            environment=EnvironmentMetadata(packages=None, git=None),
        )
        if id in self.results:
            try:
                record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                record = {}
            start = float(record.get("started", folder.stat().st_mtime))
            info.start_time = datetime.fromtimestamp(start, timezone.utc)
            end = start + float(record.get("seconds", 0))
            info.end_time = datetime.fromtimestamp(end, timezone.utc)
            info.result_location = str(folder)
        return info

    def step_starting(self, step: Step[Any]) -> None:
        """Nothing to note: the lease says who works on what."""

    def step_finished(self, step: Step[Any], result: Any) -> Any:
        return result

    def step_failed(self, step: Step[Any], e: BaseException) -> None:
        """Nothing to note: `Results.fail` did."""

    def register_run(self, targets: Iterable[Step[Any]], name: str | None = None) -> Run:
        """Note a run, unless it is refused: then nothing of it is left.

        Raises:
            WiringError: its name is none, or this machine cannot carry it.
        """
        targets = list(targets)
        if name is not None:
            require_name(name, f"-n is {escape(ascii(name))}, which cannot be the name of a run")
        if self.preflight is not None:
            self.preflight(targets)
        ids = {each.name: each.unique_id for each in targets if hasattr(each, "UNKEYED")}
        try:
            (self.dir / "runs").mkdir(parents=True, exist_ok=True)
            name = name or self._new_name()
            self.note_run(name, ids)
        except OSError as error:  # a full or read-only disk still has results
            name = name or str(petname.generate())
            cli_logger.warning("the run %s is not written down: %s", name, error.strerror)
        infos = {step: self.step_info(id) for step, id in ids.items()}
        return Run(name, infos, datetime.now(timezone.utc))

    def note_run(self, name: str, ids: dict[str, str]) -> None:
        """Write down a run's steps, with links to look at, as the latest one.

        A name that was given before goes on with that run where one of them has all steps of the
        other; else the earlier run is kept under another name, as its results are.

        Raises:
            WiringError: that other run is at work.
        """
        folder = self.run_dir(name)
        before = self._noted(folder)
        if before.items() >= ids.items():
            ids = before
        elif not ids.items() >= before.items():
            self._keep_as_another(name)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.is_symlink():
                old.unlink(missing_ok=True)  # another process may register the same run
        for step, id in ids.items():
            place = os.path.relpath(self.results.folder(id), folder)
            _relink(folder / link_name(step), place)
        write_json(folder / "steps.json", ids)
        _relink(self.dir / "latest", os.path.relpath(folder, self.dir))

    def _noted(self, folder: Path) -> dict[str, str]:
        """The steps of a run that was written down, with their ids; none where there is none."""
        try:
            noted = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _keep_as_another(self, name: str) -> None:
        if self.results.lease(run_lease(name)).holder() is not None:
            raise WiringError(f"a run named {escape(name)} is at work, and has other steps")
        number = 1
        while os.path.lexists(self.run_dir(f"{name}~{number}")):
            number += 1
        os.rename(self.run_dir(name), self.run_dir(f"{name}~{number}"))
        cli_logger.warning("the run %s of other steps is kept as %s~%d", name, name, number)

    def _new_name(self) -> str:
        """The name of a run that nobody else has, made as a folder."""
        while True:
            name = str(petname.generate())
            with suppress(FileExistsError):
                self.run_dir(name).mkdir()
                return name

    def registered_runs(self) -> dict[str, Run]:
        runs = self.dir / "runs"
        names = sorted(p.name for p in runs.iterdir()) if runs.is_dir() else []
        return {n: self.registered_run(n) for n in names if (runs / n / "steps.json").is_file()}

    def registered_run(self, name: str) -> Run:
        folder = self.run_dir(name)
        if not (folder / "steps.json").is_file():
            raise KeyError(name)
        ids = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
        start = datetime.fromtimestamp(folder.stat().st_mtime, timezone.utc)
        return Run(name, {step: self.step_info(id) for step, id in ids.items()}, start)

    def remove_step(self, step_unique_id: str) -> None:
        if step_unique_id not in self.results:
            raise KeyError(step_unique_id)
        shutil.rmtree(self.results.folder(step_unique_id))

    @contextmanager
    def capture_logs_for_run(self, name: str) -> Iterator[None]:
        """Within, what the run says and what is logged is added to its `out.log`."""
        try:
            handler = log_file(self.run_dir(name) / OUT_LOG)
        except OSError:
            handler = logging.NullHandler()
        loggers = (RUN_LOG, cli_logger, logging.getLogger())
        for logger in loggers:
            logger.addHandler(handler)
        try:
            yield
        except Exception as error:
            if not isinstance(error, CliRunError):  # which says all itself
                log_exception(error)
            raise
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
            handler.close()

    def as_config(self) -> dict[str, Any]:
        """The parameters that make this workspace in another process."""
        config = {"type": "local", "dir": str(self.dir), "strict": self.results.strict}
        return config if self.remote is None else {**config, "remote": self.remote.store.url}

    def run_dir(self, name: str) -> Path:
        """The folder of a run: its links, `steps.json`, `out.log` and the logs of its steps."""
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} cannot be the name of a run")
        return self.dir / "runs" / name


def link_name(step: str) -> str:
    """The name of the link to a step's result in the folder of a run."""
    name = file_name(step)
    return f"{name}~" if name in (OUT_LOG, "steps.json", "logs") else name


def is_strict() -> bool:
    """Whether the environment asks for a strict workspace."""
    return os.environ.get("OLMO_STRICT", "") not in ("", "0")


def _user() -> str:
    """Who this is; in a container that may be a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def require_writable(workspace: Path) -> None:
    """Raises WiringError, whose message is for the user, where nothing can be written.

    A disk that is read-only still serves all that only looks: `olmo plan`, `ls`, `show`, `verify`.
    """
    reason = ""
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        if not os.access(workspace, os.W_OK):
            reason = "it is read-only"
        elif (free := shutil.disk_usage(workspace).free) < MIN_FREE_BYTES:
            reason = f"its disk is full, {free} bytes are free"
    except OSError as error:
        reason = str(error)
    if reason:
        raise WiringError(
            f"nothing can be run in the workspace {escape(str(workspace))}: {escape(reason)}; "
            "what is in it can be looked at with olmo ls, show, diff and verify"
        )


def _relink(link: Path, target: str) -> None:
    temporary = link.with_name(f".{os.getpid()}.{uuid.uuid4().hex[:8]}")
    temporary.symlink_to(target)
    os.replace(temporary, link)
