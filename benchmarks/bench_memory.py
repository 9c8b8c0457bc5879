"""Peak memory of each stage of curation over corpora of several sizes, two workers each.

    OLMO_TANGO_TEXT=folder python benchmarks/bench_memory.py [--megabytes 100 300 1000] \
        [--stages ingest tag ...] [--folder KEEP]

Every stage is a command of its own, and reads what the stage before it wrote. The text is repeated
with changes (`corpus.py`); evaluation text is the first 100 documents of it, at each size. Two
numbers a stage and size, in MB: the largest process at its highest (resident, the system's own
mark), and all of its processes together, where what they share counts once (sampled 20 times a
second). With `--folder`, corpora and results are kept there, and stages can be run one by one.
Prints a table as Markdown, and a JSON line.
"""

import argparse
import json
import sys
import tempfile
from itertools import islice
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench_curation import filtered  # noqa: E402
from bench_tagging import WORKERS, ingest, tag  # noqa: E402
from corpus import cost_of, surroundings, texts, write_corpus  # noqa: E402

STAGES = ["ingest", "tag", "dedup", "near_duplicates", "decontaminate", "filter", "tokenize"]
STAGES.append("export_dolma")
EVALUATED = 100  # documents


def child(stage, folder):
    from pipeline.core.artifacts import Artifact
    from pipeline.core.engine import Local
    from pipeline.data.decontamination.decontaminate import find_overlaps
    from pipeline.data.dolma.export import export_dolma
    from pipeline.data.duplicates.dedup import deduplicate
    from pipeline.data.duplicates.minhash import find_near_duplicates
    from pipeline.tokens.tokenizing import tokenize_documents

    out, engine = folder / stage, Local(WORKERS)

    def load(name):
        return Artifact.load(folder / name)

    if stage == "ingest":
        ingest(folder, out)
        return
    documents = load("ingest")
    if stage == "tag":
        tag(documents, folder / "words.txt", out)
    elif stage == "dedup":
        deduplicate(documents, by=["url", "document", "paragraph"], out=out, engine=engine)
    elif stage == "near_duplicates":
        find_near_duplicates(documents, out=out, engine=engine)
    elif stage == "decontaminate":
        find_overlaps(documents, load("evaluation"), out=out, engine=engine)
    elif stage == "filter":
        filtered(documents, [load("tag"), load("dedup")], out)
    elif stage == "tokenize":
        tokenize_documents(documents, load("tokenizer"), out=out, engine=engine)
    elif stage == "export_dolma":
        measured = {"x": load("tag"), "repeats": load("dedup")}
        export_dolma(documents, measured, out=out, engine=engine)


def prepare(folder, megabytes):
    """The corpus, what is evaluated on, a list of words and a tokenizer."""
    from pipeline.data.ingest import ingest_documents
    from pipeline.data.sources.rows import Jsonl
    from pipeline.tokens.tokenizer import train_tokenizer

    if (folder / "made.json").is_file():
        return json.loads((folder / "made.json").read_text())
    made = write_corpus(folder, megabytes)
    rows = ({"id": str(n), "text": text} for n, text in enumerate(islice(texts(), EVALUATED)))
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    source = Jsonl(str(folder / "evaluation.jsonl"), "evaluation")
    evaluation = ingest_documents(source, out=folder / "evaluation")
    train_tokenizer(evaluation, vocab_size=2048, out=folder / "tokenizer")
    (folder / "words.txt").write_text("damn\nhell\n")
    (folder / "made.json").write_text(json.dumps(made))
    return made


def main():
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2], Path(sys.argv[3]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    found, corpora = {stage: {} for stage in args.stages}, {}
    for megabytes in args.megabytes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = (args.folder or Path(scratch)) / str(megabytes)
            corpora[megabytes] = prepare(folder, megabytes)
            for stage in args.stages:
                cost = cost_of([sys.executable, __file__, "--child", stage, folder])
                found[stage][megabytes] = [round(cost.largest_mb), round(cost.peak_mb)]
                told = {"stage": stage, "megabytes": megabytes, "cpu": round(cost.cpu, 1)}
                print(json.dumps(told), found[stage][megabytes], file=sys.stderr, flush=True)
    print(surroundings("pyarrow", "numpy", "numba"), "\n")
    heads = [f"{each} MB: largest, all" for each in args.megabytes]
    print(f"| stage | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}")
    for stage, by_size in found.items():
        cells = [", ".join(map(str, by_size[each])) for each in args.megabytes]
        print(f"| {stage} | {' | '.join(cells)} |")
    print(json.dumps({"corpora": corpora, "mb": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
