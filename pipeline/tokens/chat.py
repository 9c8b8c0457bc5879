"""Conversations and preferences become token ids with a mask of what is learned.

Only what an assistant says, and the end token after it, is learned. The pieces of a conversation
are tokenized apart, so that the mask is exact: no token is half learned.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import pyarrow as pa
import tokenizers

from pipeline.core.artifacts import Documents, Examples, Pairs, Tokenizer
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import ShardWriter, read_batches, shard_name
from pipeline.data.document import ROLES, Message, MetadataField
from pipeline.tokens.tokenizer import encode, load_tokenizer

IDS, MASK = pa.list_(pa.int32()), pa.list_(pa.int8())
EXAMPLE = pa.schema(
    [("id", pa.string()), ("group", pa.string()), ("input_ids", IDS), ("mask", MASK)]
    + [("num_answer_bytes", pa.int64())]
)
PAIR = pa.schema(
    [("id", pa.string()), ("group", pa.string())]
    + [("chosen_ids", IDS), ("chosen_mask", MASK), ("rejected_ids", IDS), ("rejected_mask", MASK)]
    + [("chosen_bytes", pa.int64()), ("rejected_bytes", pa.int64())]
    + [("chosen_logprob", pa.float64()), ("rejected_logprob", pa.float64())]
)
BATCH_DOCUMENTS = 256


def render(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    loaded: tokenizers.Tokenizer | None = None,
    *,
    learn_from: int = 0,
) -> tuple[list[int], list[int]]:
    """The ids of a conversation, the end token in front, and its mask: 1 where it is learned.

    Args:
        loaded: what `load_tokenizer` gave, for whoever renders more than one.
        learn_from: the first message that may be learned.

    Raises:
        ValueError: a message is malformed.

    Source: Wang et al. 2023, "How Far Can Camels Go?", 3.2; the code is `allenai/open-instruct`,
        `_concat_messages` and `encode_with_messages_format`.
    Differs: pieces are tokenized apart; the newline after an answer's end token is not learned;
        text that spells a special token is ordinary text.
    """
    pieces = _pieces(_checked(messages), learn_from)
    encoded = encode(loaded or load_tokenizer(tokenizer), [text for text, _, _ in pieces])
    ids, mask = [tokenizer.end_id], [0]
    for (_, learned, ends), piece in zip(pieces, encoded, strict=True):
        ids += piece
        mask += [int(learned)] * len(piece)
        if ends:
            ids.append(tokenizer.end_id)
            mask.append(int(learned))
    return ids, mask


def prepare_examples(
    documents: Documents,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    group_by: MetadataField | None = None,
    out: Path,
    engine: Engine = LOCAL,
) -> Examples:
    """Render the conversation in each document's metadata, `messages`.

    One longer than `max_length` tokens, or with no answer to learn, is counted in `num_skipped`.

    Args:
        group_by: what is equal in documents that are not independent, as the
            module that a function is from; standard errors of scores count such a group once.

    Raises:
        CorruptShard: a document has no well-formed conversation.

    Source: Wang et al. 2023, "How Far Can Camels Go?", 3.2; allenai/open-instruct, `finetune.py`.
    Differs: a conversation that is too long is left out whole. There the longest were split into
        several when the mix was made, and what is still too long is cut off on the right, so that
        an answer may be learned without its end.
    """
    work = _PrepareShard(documents, tokenizer, _example, EXAMPLE, max_length, group_by, Path(out))
    shards, num_skipped = _prepare(work, engine)
    return Examples.of(
        Path(out),
        tokenizer=tokenizer.content,
        num_examples=sum(each.num_records for each in shards),
        num_skipped=num_skipped,
        shards=shards,
    )


def prepare_pairs(
    documents: Documents,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    group_by: MetadataField | None = None,
    out: Path,
    engine: Engine = LOCAL,
) -> Pairs:
    """Render the preference in each document's metadata: `prompt`, `chosen` and `rejected`.

    The prompt is a list of messages, the other two are answers to it; only they are learned. A pair
    is counted in `num_skipped` where either side is longer than `max_length` tokens or is empty,
    and where both are the same, which prefers nothing.
    The log-probabilities are null until a reference computes them.

    Args:
        group_by: as for examples.

    Raises:
        CorruptShard: a document has no well-formed preference.

    Source: allenai/open-instruct, `dpo_tune.py`.
    Differs: a pair with a side that is too long is left out; there that side is cut off on the
        right, so that a longer answer may lose its end and its end token.
    """
    work = _PrepareShard(documents, tokenizer, _pair, PAIR, max_length, group_by, Path(out))
    shards, num_skipped = _prepare(work, engine)
    return Pairs.of(
        Path(out),
        tokenizer=tokenizer.content,
        num_pairs=sum(each.num_records for each in shards),
        num_skipped=num_skipped,
        reference="",
        shards=shards,
    )


# ---------------------------------------------------------------------------- rendering


def _pieces(messages: Sequence[Message], learn_from: int) -> list[tuple[str, bool, bool]]:
    """Text to tokenize apart: is it learned, and does the end token follow?"""
    pieces, pending = [], ""
    for place, message in enumerate(messages):
        content = message["content"].strip()
        pending += f"<|{message['role']}|>\n"
        if message["role"] == "assistant":
            pieces += [(pending, False, False), (content, place >= learn_from, True)]
            pending = "\n"
        else:
            pending += content + "\n"
    return [*pieces, (pending.rstrip(), False, False)]  # the whole is stripped


def _checked(messages: object) -> Sequence[Message]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError("messages is no list of messages; it must be one and not empty")
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"message {place} is a {type(message).__name__}; must be an object")
        if message.get("role") not in ROLES:
            raise ValueError(f"role of message {place} is {message.get('role')!r}; one of {ROLES}")
        if not _is_text(message.get("content")):
            raise ValueError(f"content of message {place} is not text")
    return messages


def _is_text(value: object) -> TypeGuard[str]:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        return False
    return True


def _num_answer_bytes(messages: Sequence[Message]) -> int:
    said = (each["content"].strip() for each in messages if each["role"] == "assistant")
    return sum(len(each.encode()) for each in said)


# ---------------------------------------------------------------------------- shards

Row = dict[str, Any]
MakeRow = Callable[[Row, Tokenizer, tokenizers.Tokenizer, int], "Row | None"]


def _example(
    metadata: Row, tokenizer: Tokenizer, loaded: tokenizers.Tokenizer, max_length: int
) -> Row | None:
    messages = _checked(metadata.get("messages"))
    ids, mask = render(messages, tokenizer, loaded)
    num_bytes = _num_answer_bytes(messages)
    if len(ids) > max_length or not num_bytes:
        return None
    return {"input_ids": ids, "mask": mask, "num_answer_bytes": num_bytes}


def _pair(
    metadata: Row, tokenizer: Tokenizer, loaded: tokenizers.Tokenizer, max_length: int
) -> Row | None:
    prompt = list(_checked(metadata.get("prompt")))
    row: Row = {"chosen_logprob": None, "rejected_logprob": None}
    kept, answers = True, set()
    for side in ("chosen", "rejected"):
        answer = metadata.get(side)
        if not _is_text(answer):
            raise ValueError(f"{side} is not text")
        messages: list[Message] = [*prompt, {"role": "assistant", "content": answer}]
        ids, mask = render(messages, tokenizer, loaded, learn_from=len(prompt))
        answers.add(answer.strip())
        num_bytes = len(answer.strip().encode())
        kept = kept and len(ids) <= max_length and num_bytes > 0
        row |= {f"{side}_ids": ids, f"{side}_mask": mask, f"{side}_bytes": num_bytes}
    return row if kept and len(answers) == 2 else None


@dataclass(frozen=True)
class _PrepareShard:
    documents: Documents
    tokenizer: Tokenizer
    make: MakeRow
    schema: pa.Schema
    max_length: int
    group_by: MetadataField | None
    out: Path

    def __call__(self, number: int) -> tuple[Shard, int]:
        shard, num_skipped = self.documents.shards[number], 0
        loaded = load_tokenizer(self.tokenizer)
        with ShardWriter(self.out, shard_name(number), self.schema) as writer:
            columns = ["id", "metadata"]
            for batch in read_batches(self.documents.root, shard, columns, BATCH_DOCUMENTS):
                rows = []
                for document in batch.to_pylist():
                    row = self._made(shard, document, loaded)
                    if row is None:
                        num_skipped += 1
                    else:
                        rows.append({"id": document["id"], **row})
                writer.write(pa.Table.from_pylist(rows, schema=self.schema))
        return writer.shard, num_skipped

    def _made(self, shard: Shard, document: Row, loaded: tokenizers.Tokenizer) -> Row | None:
        try:
            metadata = json.loads(document["metadata"] or "{}")
            if not isinstance(metadata, dict):
                raise ValueError("metadata is not an object")
            group = self.group_by.of(document["metadata"]) if self.group_by else ""
            row = self.make(metadata, self.tokenizer, loaded, self.max_length)
            return None if row is None else {"group": group, **row}
        except ValueError as error:
            path = self.documents.root / shard.path
            raise CorruptShard(path, document["id"], str(error)) from error


def _prepare(work: _PrepareShard, engine: Engine) -> tuple[list[Shard], int]:
    if work.max_length < 2:
        raise ValueError(f"max_length is {work.max_length}; it must be at least 2")
    work.out.mkdir(parents=True, exist_ok=True)
    finished = engine.map(work, range(len(work.documents.shards)), label="prepare")
    return [shard for shard, _ in finished], sum(skipped for _, skipped in finished)
