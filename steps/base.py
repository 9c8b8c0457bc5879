"""PipelineStep: what every step of ours shares. A key people can read, `out`, and the memo."""

from __future__ import annotations

import dataclasses
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from tango.common.logging import cli_logger
from tango.format import Format
from tango.step import Step

from pipeline.core.artifacts import Artifact
from pipeline.core.energy import EnergyMeter
from pipeline.core.errors import ChangedData, PipelineError
from pipeline.core.files import write_json
from pipeline.core.keys import Json, canonical, changes, digest
from pipeline.core.manifest import MANIFEST
from pipeline.core.stopping import Stopped
from pipeline.store.branching import branch, is_new
from pipeline.store.code import Code, code_of
from pipeline.store.discarding import refill, restore
from pipeline.store.leases import LostLease, Occupied
from pipeline.store.memo import FileMemo
from pipeline.store.provenance import record_provenance
from pipeline.store.remote import Remote
from pipeline.store.results import KEY, Results, result_id
from pipeline.store.spent import claim_energy
from steps.execution.inputs import make_inputs_readable, mark_damaged_inputs
from steps.graph.deferred import WithSteps
from steps.graph.extent import first_step_of_rule, without_extent, without_rule

FORMAT_VERSION = "001"
CODE = Path(__file__).parent


class ManifestFormat(Format[Artifact]):
    """A result is its manifest; the step wrote the files itself, and nothing is pickled."""

    VERSION = FORMAT_VERSION

    def write(self, artifact: Artifact, dir: Any) -> None:
        if artifact.root != Path(dir):
            raise ValueError(f"the artifact stands in {artifact.root}; it must stand in {dir}")

    def read(self, dir: Any) -> Artifact:
        return Artifact.load(Path(dir))


class PipelineStep(Step[Artifact]):
    """A name, a version and one call of the library.

    A subclass has a `VERSION` and a typed `run`; `self.out` is the folder its files go to.
    """

    VERSION: str = "001"
    FORMAT = ManifestFormat()
    CACHEABLE = True
    UNKEYED: ClassVar[frozenset[str]] = frozenset(
        {"engine", "evaluations", "launch", "monitors", "retention", "stop_on"}
    )
    SERIES: ClassVar[bool] = False  # whether `run` trains: then `self.series` is its trajectory

    out: Path
    series: Path
    series_lease: Callable[[], AbstractContextManager[Any]] = nullcontext  # for who writes to it
    memo: FileMemo
    patient: bool = True  # wait for a lease that others hold; else `run` raises Occupied
    _built_on: dict[str, Json] | None = None  # the key, once it was asked for
    made: str = "cached"  # how the latest call came to its result: cached, linked or ran

    def key(self) -> dict[str, Json]:
        """The document whose digest is this step's id; outside data is as it was when built."""
        if self._built_on is None:
            self._built_on = self._key_now()
        return self._built_on

    def fingerprint(self) -> str:
        """What is installed that its result depends on beside its code, in words; often nothing."""
        return ""

    def _key_now(self) -> dict[str, Json]:
        return self._key(lambda step: {"step": step.unique_id})

    @property
    def code(self) -> Code | None:
        """The code that makes this step's result; None where its source cannot be read."""
        given = [each for name, each in self.kwargs.items() if name not in self.UNKEYED]
        return code_of(type(self), "run", _component_classes(given))

    def content_key(self, loaded: dict[str, Any]) -> dict[str, Json]:
        """The key with every input step replaced by the content that it made."""
        form: dict[str, Json] = self._frame(loaded)
        return form

    def _frame(self, args: dict[str, Any]) -> dict[str, Json]:
        keyed = {n: canonical(v) for n, v in sorted(args.items()) if n not in self.UNKEYED}
        form = {
            "step": type(self).__name__,
            "version": self.VERSION,
            "format": FORMAT_VERSION,
            "args": keyed,
        }
        installed = self.fingerprint()
        return form | {"fingerprint": installed} if installed else form

    def _key(self, form: Any) -> dict[str, Json]:
        return self._frame({n: _with_steps(v, form) for n, v in self.kwargs.items()})

    @property
    def unique_id(self) -> str:
        if self.unique_id_cache is None:
            self.unique_id_cache = result_id(self.key())
        return self.unique_id_cache

    def _replace_steps_with_results(self, o: Any, workspace: Any) -> Any:
        if isinstance(o, WithSteps):
            return o.function(**self._replace_steps_with_results(o.kwargs, workspace))
        return super()._replace_steps_with_results(o, workspace)

    def _require_unchanged(self) -> None:
        """Raises ChangedData where outside data is not what the id was made from."""
        now = self._key_now()
        if result_id(now) != self.unique_id:
            change = changes(self.key(), now)  # none where a process was told the id alone
            reason = str(change[0]).removeprefix("args.") if change else ""
            raise ChangedData(f"what step {self.name} reads", reason)

    def _run_with_work_dir(self, workspace: Any, needed_by: Step[Any] | None = None) -> Artifact:
        """Run, link or find the result, holding its lease; Tango calls this on a cache miss."""
        results: Results = workspace.results
        with results.lease(self.unique_id, self._say_waiting) as lease:
            code = self.code
            if self.unique_id in results and not results.is_stale(self.unique_id, code):
                return results.load(self.unique_id)
            remote: Remote | None = workspace.remote
            if remote is not None and remote.bring(results, self.unique_id):
                self._say_pulled(remote)
                self.made = "pulled"
                return results.load(self.unique_id)
            self._require_unchanged()
            args = self._replace_steps_with_results(self.kwargs, workspace)
            content_form = self.content_key(args)
            content_key = digest(content_form)
            earlier = results.find_earlier(content_key, code)
            if earlier is None and remote is not None:
                earlier = remote.bring_content(results, content_key, held=self.unique_id)
            if earlier is not None:
                cli_logger.info(
                    '[green]\N{CHECK MARK} Step [bold]"%s"[/] linked to an earlier result: '
                    "the content of its inputs is the same[/]",
                    self.name,
                )
                self.made = "linked"
                return results.link(earlier, self.unique_id, self.key(), content_key)
            if make_inputs_readable(self, workspace):
                args = self._replace_steps_with_results(self.kwargs, workspace)
                content_form = self.content_key(args)
                content_key = digest(content_form)
            self.log_starting(needed_by=needed_by)
            started, meter = time.time(), EnergyMeter()
            try:
                self._make(results, args)
                self._require_unchanged()
                lease.require()
                record = _record(self, started)
                if self.SERIES:
                    record |= claim_energy(self.series, self.unique_id)
                else:
                    record |= meter.record()
                record |= record_provenance(self.out, CODE)
                record["code"] = code.to_json() if code else None
                made = results.commit(self.unique_id, self.key(), content_key, record)
            except (Occupied, LostLease):
                raise
            except BaseException as error:
                mark_damaged_inputs(self, error, results)
                results.fail(self.unique_id, _failure(self, error, started))
                raise
        self.made = "ran"
        seconds = time.time() - started
        cli_logger.info(
            '[green]\N{CHECK MARK} Finished step [bold]"%s"[/] in %.1f s[/]', self.name, seconds
        )
        return made

    def _make(self, results: Results, args: dict[str, Any]) -> None:
        """Do the work, in the folder of work."""
        apart = self._apart(results)
        self.out, self.memo = results.resume(self.unique_id), results.files.of_code(apart)
        write_json(self.out / KEY, self.key())  # so that what it reads is known to be in use
        if self.SERIES:
            name = self.series_name(results, args)
            self.series = results.series(name, user=self.unique_id)
            self.series_lease = partial(results.lease, f"series-{name}", self._say_waiting)
            self._branch(results, args)
        made = self.run(**args)
        if not (self.out / MANIFEST).is_file():
            what = "None" if made is None else f"a {type(made).__name__}"
            if isinstance(made, Artifact):
                what += f" that stands in {made.root}"
            raise PipelineError(
                f"run() of {type(self).__name__} gave {what} and made no artifact in its folder, "
                f"{self.out}; it must give one that stands there, as by Documents.of(..., root=out)"
            )

    def make_again(self, workspace: Any) -> None:
        """Make a result anew whose data was discarded; what stands below it stays as it is."""
        results: Results = workspace.results
        with results.lease(self.unique_id, self._say_waiting) as lease:
            if not results.inventory(self.unique_id).discarded or refill(results, self.unique_id):
                return
            if workspace.remote is not None and workspace.remote.refill(results, self.unique_id):
                self._say_pulled(workspace.remote)
                return
            cli_logger.info(
                '[blue]Step [bold]"%s"[/] is made again: its data was discarded[/]', self.name
            )
            make_inputs_readable(self, workspace)
            self._make(results, self._replace_steps_with_results(self.kwargs, workspace))
            self._require_unchanged()
            lease.require()
            restore(results, self.unique_id)

    def log_cache_hit(self, needed_by: Step[Any] | None = None) -> None:
        """Say it once, when the step's own turn comes, and not for each step that reads it."""
        if needed_by is None:
            super().log_cache_hit()

    def series_name(self, results: Results, args: dict[str, Any]) -> str:
        """The name of the series that a training step makes or extends, of what it reads."""
        return self._name_of_series(results, self.content_key(args))

    def _name_of_series(self, results: Results, form: dict[str, Json]) -> str:
        name, apart = digest(without_extent(form)), self._apart(results)
        return digest([name, apart]) if apart else name

    def _branch(self, results: Results, args: dict[str, Any]) -> None:
        """Begin the series with what another one has up to where this one becomes its own."""
        origin = self._origin(results, self.series, self.content_key(args))
        if origin is not None:
            with self.series_lease():
                branch(self.series, *origin)

    def _origin(
        self, results: Results, series: Path, form: dict[str, Json]
    ) -> tuple[Path, int] | None:
        """The series that a new one begins as, and up to which step, if it does."""
        from_step = first_step_of_rule(form)
        if from_step and is_new(series):
            origin = results.series(self._name_of_series(results, without_rule(form)))
            return (origin, from_step) if origin.is_dir() else None
        return None

    def _apart(self, results: Results) -> str:
        """The code that work is kept apart for; empty where its version tells enough."""
        code = self.code
        return code.digest if results.strict and code is not None else ""

    def _say_pulled(self, remote: Remote) -> None:
        cli_logger.info(
            '[green]\N{CHECK MARK} Step [bold]"%s"[/] pulled from %s[/]',
            self.name,
            remote.store.shown,
        )

    def _say_waiting(self, owner: dict[str, object]) -> None:
        if not self.patient:
            raise Occupied(f"process {owner.get('pid')} on {owner.get('host')} works on it")
        cli_logger.info(
            '[blue]Step "%s" waits: process %s on %s works on it[/]',
            self.name,
            owner.get("pid"),
            owner.get("host"),
        )


def _with_steps(value: Any, form: Any) -> Any:
    if isinstance(value, Step):
        return form(value)
    if isinstance(value, (list, tuple)):
        return [_with_steps(item, form) for item in value]
    if isinstance(value, dict):
        return {name: _with_steps(item, form) for name, item in value.items()}
    return value


def _component_classes(value: Any) -> Iterator[type]:
    """The classes of the components in a value, and of those inside them."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _component_classes(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for field in dataclasses.fields(value):
            yield from _component_classes(getattr(value, field.name))


def _record(step: PipelineStep, started: float) -> dict[str, Any]:
    """How a result was made; nothing of this is in any key."""
    unkeyed = {n: repr(v) for n, v in step.kwargs.items() if n in step.UNKEYED}
    return {
        "name": step.name,
        "started": round(started, 3),
        "seconds": round(time.time() - started, 3),
        "host": platform.node(),
        "python": platform.python_version(),
        "packages": _packages(),
        "unkeyed": unkeyed,
    }


def _failure(step: PipelineStep, error: BaseException, started: float) -> dict[str, Any]:
    """What is noted of an attempt that was broken off: its error, and the signal if one came."""
    failure: dict[str, Any] = {
        "step": step.name,
        "error": f"{type(error).__name__}: {error}",
        "seconds": round(time.time() - started, 3),
    }
    if isinstance(error, KeyboardInterrupt):
        signum = error.signum if isinstance(error, Stopped) else signal.SIGINT
        failure["stopped"] = signal.Signals(signum).name
    return failure


@lru_cache(maxsize=1)
def _packages() -> dict[str, str]:
    packages = {}
    for name in ("olmo-tango", "ai2-tango", "torch", "pyarrow", "tokenizers", "numpy"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return packages
