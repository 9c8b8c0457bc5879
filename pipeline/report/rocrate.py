"""A lineage as an RO-Crate: one JSON-LD file that says what was made of what, by which software.

Every step is a `CreateAction`, as the Process Run Crate profile has it. What is small (manifests,
keys, records, diffs) stands in the crate; the files of results are named by their SHA-256, or
placed in the crate as well.

Source: RO-Crate 1.1, w3id.org/ro/crate/1.1; Process Run Crate 0.5, w3id.org/ro/wfrun/process/0.5.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.core.artifacts import MANIFEST, Artifact, Checkpoints, TokenShard
from pipeline.core.errors import PipelineError
from pipeline.core.files import StoredFile, file_sha256, write_json
from pipeline.core.keys import Json, digest
from pipeline.report.provenance import is_number, moment, shown_value
from pipeline.store.lineage import Made
from pipeline.store.memo import place_file
from pipeline.store.provenance import DIFF
from pipeline.store.results import KEY, RECORD

METADATA = "ro-crate-metadata.json"
CRATE = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
SPDX = "https://spdx.org/licenses/"
LICENCES = {  # what sources call them, in small letters -> SPDX
    each.lower(): each
    for each in """AFL-3.0 Apache-2.0 BSD-2-Clause BSD-3-Clause CC-BY-3.0 CC-BY-4.0 CC-BY-NC-3.0
    CC-BY-NC-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0 GPL-2.0-only GPL-3.0-only MIT ODC-By-1.0 PSF-2.0
    Unlicense""".split()
} | {"odc-by": "ODC-By-1.0", "cc0": "CC0-1.0"}
FORMATS = {
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".html": "text/html",
    ".diff": "text/x-diff",
}
Entity = dict[str, Any]
Arguments = Callable[[Made], dict[str, Json]]


def write_crate(
    lineage: Sequence[Made], folder: Path, arguments: Arguments, *, with_files: bool = False
) -> Path:
    """Write the crate of a lineage, the last of which is what it is about; gives the metadata file.

    Args:
        arguments: those of a result that are worth naming.
        with_files: place the files of the results in the crate, by links where there are links.

    Raises:
        ValueError: the folder holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / METADATA).is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise ValueError(f"{folder} holds something else; give a new folder or that of a crate")
    folder.mkdir(parents=True, exist_ok=True)
    crate = _Crate(folder, with_files)
    for made in lineage:
        crate.add_result(made, arguments(made))
    write_json(folder / METADATA, crate.document(lineage[-1]))
    return folder / METADATA


def spdx(licence: str) -> str | None:
    """The address of a licence's text; None for a name that is not known."""
    known = LICENCES.get(licence.strip().lower())
    return SPDX + known if known else None


class _Crate:
    def __init__(self, folder: Path, with_files: bool) -> None:
        self.folder, self.with_files = folder, with_files
        self.entities: dict[str, Entity] = {}
        self.results: list[Entity] = []
        self.actions: list[Entity] = []
        self.licences: dict[str, Entity] = {}

    def document(self, about: Made) -> Entity:
        """The whole file; called when everything was added."""
        root: Entity = {
            "@id": "./",
            "@type": "Dataset",
            "conformsTo": {"@id": PROFILE},
            "name": f"{about.name}, with all that it was made of",
            "description": f"Result {about.id} of an olmo-tango graph and its provenance: "
            f"{len(self.actions)} steps.",
            "datePublished": _published(about),
            "license": list(self.licences.values()) or [self.licence("unknown")],
            "mainEntity": {"@id": f"{about.id}/"},
            "hasPart": self.results,
            "mentions": self.actions,
        }
        descriptor = {
            "@id": METADATA,
            "@type": "CreativeWork",
            "conformsTo": {"@id": CRATE},
            "about": {"@id": "./"},
        }
        profile = {
            "@id": PROFILE,
            "@type": "CreativeWork",
            "name": "Process Run Crate",
            "version": "0.5",
        }
        graph = [descriptor, root, profile, *self.entities.values()]
        return {"@context": [f"{CRATE}/context", TERMS], "@graph": graph}

    def add(self, entity: Entity) -> Entity:
        """Keep an entity, the first of its id, and give a reference to it."""
        self.entities.setdefault(entity["@id"], entity)
        return {"@id": entity["@id"]}

    def licence(self, name: str) -> Entity:
        id = spdx(name) or f"#licence-{quote(name, safe='')}"
        return self.add({"@id": id, "@type": "CreativeWork", "name": name})

    def add_result(self, made: Made, arguments: dict[str, Json]) -> None:
        manifest = made.manifest
        dataset: Entity = {
            "@id": f"{made.id}/",
            "@type": "Dataset",
            "name": made.name,
            "description": f"{manifest.get('artifact', 'Result')} made by step {made.name}",
        }
        if manifest:
            dataset["identifier"] = f"content sha256 {manifest.get('content')}"
            dataset["hasPart"] = [*self._records(made), *self._files(made)]
        licences = [self.licence(each) for each in _licences(manifest)]
        self.licences |= {each["@id"]: each for each in licences}
        if licences:
            dataset["license"] = licences
        self.results.append(self.add(dataset))
        (self.folder / made.id).mkdir(exist_ok=True)
        self._add_action(made, arguments)

    def _add_action(self, made: Made, arguments: dict[str, Json]) -> None:
        record = made.record
        inputs = [{"@id": f"{id}/"} for id in dict.fromkeys(made.inputs.values())]
        action: Entity = {
            "@id": f"#{made.id}",
            "@type": "CreateAction",
            "name": f"{made.name}: {made.step} {made.version}",
            "instrument": self._software(made),
            "object": [*inputs, *self._sources(made), *self._arguments(made, arguments)],
            "result": {"@id": f"{made.id}/"},
            "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
        }
        started = moment(record.get("started"))
        if started is not None:
            action["startTime"] = started.isoformat()
            if is_number(record.get("seconds")):
                ended = moment(record["started"] + record["seconds"]) or started
                action["endTime"] = ended.isoformat()
        if made.linked_from:
            action["description"] = (
                f"Nothing ran: the content of its inputs was that of {made.linked_from}, "
                "whose files it has; the times are of that one."
            )
        usage = list(self._usage(made))
        if usage:
            action["resourceUsage"] = usage
        self.actions.append(self.add(action))

    def _software(self, made: Made) -> Entity:
        record = made.record
        packages = _object(record.get("packages"))
        needs = [self._package("Python", str(record.get("python", "unknown")))]
        needs += [self._package(str(n), str(v)) for n, v in packages.items() if n != "olmo-tango"]
        git, code = _object(record.get("git")), _object(record.get("code"))
        state = [git.get("commit"), git.get("diff_sha256"), code.get("digest"), packages]
        source: Entity = {
            "@id": f"#code-{digest(state[:2] + [packages.get('olmo-tango')])[:12]}",
            "@type": "SoftwareSourceCode",
            "name": "olmo-tango",
            "version": str(git.get("commit") or packages.get("olmo-tango") or "unknown"),
            "programmingLanguage": "Python",
        }
        if git.get("diff_sha256"):
            source["description"] = f"changed since the commit: diff sha256 {git['diff_sha256']}"
        application: Entity = {
            "@id": f"#{made.step}-{made.version}-{digest([state, record.get('python')])[:12]}",
            "@type": "SoftwareApplication",
            "name": made.step,
            "softwareVersion": made.version,
            "softwareRequirements": needs,
            "isPartOf": self.add(source),
        }
        if code.get("digest"):
            application["identifier"] = f"code {code['digest']}"
        return self.add(application)

    def _package(self, name: str, version: str) -> Entity:
        id = f"#software-{quote(f'{name}-{version}', safe='')}"
        kind = "SoftwareApplication"
        return self.add({"@id": id, "@type": kind, "name": name, "softwareVersion": version})

    def _sources(self, made: Made) -> Iterator[Entity]:
        for form in made.sources.values():
            inner = _object(form.get("of")) or form
            name = str(inner.get("source") or inner.get("is"))
            entity: Entity = {
                "@id": f"#source-{digest(form)[:16]}",
                "@type": "CreativeWork",
                "name": name,
                "identifier": str(form["fingerprint"]),
            }
            if isinstance(inner.get("provenance"), str):
                entity["description"] = inner["provenance"]
            if isinstance(inner.get("licence"), str):
                entity["license"] = self.licence(inner["licence"])
            yield self.add(entity)

    def _arguments(self, made: Made, arguments: dict[str, Json]) -> Iterator[Entity]:
        for name, value in arguments.items():
            plain = value if isinstance(value, (str, int, float)) else shown_value(value)
            id = f"#{made.id}-{quote(name, safe='')}"
            yield self.add({"@id": id, "@type": "PropertyValue", "name": name, "value": plain})

    def _usage(self, made: Made) -> Iterator[Entity]:
        for name, value in _object(made.record.get("hardware")).items():
            if value or value == 0:
                shown = value if is_number(value) else _text(value)
                id = f"#machine-{digest([name, shown])[:12]}"
                yield self.add({"@id": id, "@type": "PropertyValue", "name": name, "value": shown})
        energy = made.record.get("energy_kwh")
        if is_number(energy):
            usage = {"name": "energy", "value": energy, "unitText": "kWh"}
            yield self.add({"@id": f"#{made.id}-energy", "@type": "PropertyValue", **usage})

    def _records(self, made: Made) -> Iterator[Entity]:
        """The small files beside a result, copied."""
        for name in (MANIFEST, KEY, RECORD, DIFF):
            if (made.folder / name).is_file():
                target = self.folder / made.id / name
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(made.folder / name, target)
                size, sha256 = target.stat().st_size, file_sha256(target)
                yield self._file(f"{made.id}/{name}", name, size, sha256)

    def _files(self, made: Made) -> Iterator[Entity]:
        for path, place, size, sha256 in _stored(made):
            id = f"ni:///sha-256;{_base64(sha256)}"
            if self.with_files and place.is_file():
                place_file(place, self.folder / made.id / path)
                id = f"{made.id}/{quote(path)}"
            yield self._file(id, path, size, sha256)

    def _file(self, id: str, path: str, size: int, sha256: str) -> Entity:
        kind = FORMATS.get(Path(path).suffix, "application/octet-stream")
        about = {"contentSize": str(size), "encodingFormat": kind, "sha256": sha256}
        return self.add({"@id": id, "@type": "File", "name": Path(path).name, **about})


def _stored(made: Made) -> Iterator[tuple[str, Path, int, str]]:
    """Path below the result, place, size and SHA-256 of its files, and of its checkpoints'."""
    try:
        artifact = Artifact.load(made.folder)
    except PipelineError:
        return
    for each in artifact.files():
        yield each.path, made.folder / each.path, each.num_bytes, each.sha256
        if isinstance(each, TokenShard):
            index = StoredFile(each.index_path, each.index_bytes, "", each.index_sha256)
            yield index.path, made.folder / index.path, index.num_bytes, index.sha256
    if isinstance(artifact, Checkpoints):
        for checkpoint in artifact.steps:
            folder = artifact.folder(checkpoint)
            try:
                state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                digests = {str(n): bytes.fromhex(v).hex() for n, v in state["sha256"].items()}
                sizes = {n: (folder / n).stat().st_size for n in digests if Path(n).name == n}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            for name, size in sizes.items():
                yield f"{folder.name}/{name}", folder / name, size, digests[name]


def _licences(manifest: dict[str, Any]) -> list[str]:
    sources, tasks = manifest.get("sources"), manifest.get("licences")
    found = [_object(each).get("licence") for each in sources] if isinstance(sources, list) else []
    found += [name for each in _object(tasks).values() for name in str(each).split(", ")]
    return sorted({each for each in found if isinstance(each, str) and each})


def _published(about: Made) -> str:
    """The day on which it was made; today where that is not known."""
    started = moment(about.record.get("started"))
    return (started or datetime.now(timezone.utc)).date().isoformat()


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _base64(sha256: str) -> str:
    try:
        content = bytes.fromhex(sha256)
    except ValueError:
        content = b""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
