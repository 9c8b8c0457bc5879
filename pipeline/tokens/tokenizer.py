"""Tokenizers as artifacts: trained on a sample of documents, or taken as published."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
import xxhash
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from pipeline.core.artifacts import Documents, Tokenizer
from pipeline.core.errors import CorruptShard
from pipeline.core.files import StoredFile
from pipeline.core.shards import read_batches
from pipeline.core.temporary import temporary_for

FILE = "tokenizer.json"
NUM_BYTES = 256  # a byte-level vocabulary begins with a symbol for every byte
LEAST_VOCAB = NUM_BYTES + 2  # and the end and padding tokens
BATCH_DOCUMENTS = 256


def train_tokenizer(
    documents: Documents,
    *,
    vocab_size: int,
    out: Path,
    sample_fraction: float = 1.0,
    end_token: str = "<|endoftext|>",
    pad_token: str = "<|padding|>",
    special_tokens: Sequence[str] = (),
) -> Tokenizer:
    """Train a byte-level BPE on a sample of the documents.

    A document is in the sample by the hash of its (source, id) alone, so one more shard adds its
    own and disturbs no other. Special tokens have the first ids: end, padding, then the others.

    Args:
        vocab_size: at most so many ids; fewer where the sample runs out of pairs to merge.
        sample_fraction: in (0, 1].

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", 2.2.
    Differs: OLMo's published tokenizer first normalizes to NFC; this one keeps every byte, so that
        decoding gives back the text.
    """
    specials = list(dict.fromkeys([end_token, pad_token, *special_tokens]))
    if end_token == pad_token:
        raise ValueError(f"pad_token is {pad_token!r}; it must differ from end_token")
    if vocab_size < NUM_BYTES + len(specials):
        least = NUM_BYTES + len(specials)
        raise ValueError(f"vocab_size is {vocab_size}; it must be at least {least}")
    if not 0 < sample_fraction <= 1:
        raise ValueError(f"sample_fraction is {sample_fraction}; it must be in (0, 1]")
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(each, special=True, normalized=False) for each in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(_sample(documents, sample_fraction), trainer)
    return _stored(model, model.to_str(pretty=True).encode(), Path(out), end_token, pad_token)


def import_tokenizer(
    path: Path | str,
    *,
    out: Path,
    end_token: str = "<|endoftext|>",
    pad_token: str = "<|padding|>",
) -> Tokenizer:
    """Take a published `tokenizer.json` as it is, byte for byte.

    Raises:
        CorruptShard: `tokenizers` cannot read it.
        ValueError: it has no such end or padding token.
    """
    return _stored(_read(Path(path)), Path(path).read_bytes(), Path(out), end_token, pad_token)


def load_tokenizer(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Verify and open a tokenizer, without truncation or padding of its own.

    Raises:
        CorruptShard: the file is not the one of the manifest.
    """
    if multiprocessing.parent_process() is not None:
        # an engine's worker: the engine already has a process a core
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer.file.verify(tokenizer.root)
    loaded = _read(tokenizer.root / tokenizer.file.path)
    loaded.no_truncation()
    loaded.no_padding()
    loaded.encode_special_tokens = True
    return loaded


def encode(
    loaded: tokenizers.Tokenizer, texts: Sequence[str], *, allow_special: bool = False
) -> list[list[int]]:
    """The ids of each text, with nothing added at either end.

    Without `allow_special` a text that spells a special token is ordinary text, as a document that
    merely mentions `<|endoftext|>` must not end there.

    Differs: Dolma's tokenizer makes special ids of such text.
    """
    before = loaded.encode_special_tokens
    loaded.encode_special_tokens = not allow_special
    try:
        encoded = loaded.encode_batch_fast(list(texts), add_special_tokens=False)
    finally:
        loaded.encode_special_tokens = before
    return [each.ids for each in encoded]


def decode(loaded: tokenizers.Tokenizer, ids: Sequence[int]) -> str:
    """The text of the ids, special tokens spelled out."""
    return str(loaded.decode(list(ids), skip_special_tokens=False))


def _sample(documents: Documents, fraction: float) -> Iterator[str]:
    limit = int(fraction * 2**64)
    for shard in documents.shards:
        columns = ["source", "id", "text"]
        for batch in read_batches(documents.root, shard, columns, BATCH_DOCUMENTS):
            rows = (batch[each].to_pylist() for each in columns)
            for source, name, text in zip(*rows, strict=True):
                if xxhash.xxh3_64_intdigest(f"{source}\0{name}".encode()) < limit:
                    yield text


def _read(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CorruptShard(path, None, f"not a tokenizer ({error})") from error


def _stored(
    model: tokenizers.Tokenizer, content: bytes, out: Path, end_token: str, pad_token: str
) -> Tokenizer:
    vocabulary = model.get_vocab(with_added_tokens=True)
    for name, token in (("end_token", end_token), ("pad_token", pad_token)):
        if token not in vocabulary:
            raise ValueError(f"{name} is {token!r}; it must be a token of the tokenizer")
    out.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(out / FILE)
    temporary.write_bytes(content)
    os.replace(temporary, out / FILE)
    return Tokenizer.of(
        out,
        file=StoredFile.of(out, FILE),
        vocab_size=max(vocabulary.values()) + 1,
        end_id=vocabulary[end_token],
        pad_id=vocabulary[pad_token],
    )
