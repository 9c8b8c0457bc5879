"""A disk that fills up is said to be full, leaves nothing half, and with room the work goes on."""

import os
import random
import resource
import shutil

import pytest

from pipeline.core.errors import ShardFailed
from pipeline.data.duplicates.dedup import deduplicate
from pipeline.data.duplicates.minhash import find_near_duplicates
from pipeline.data.filtering import filter_documents
from pipeline.data.rules import Replace
from pipeline.data.taggers.lengths import Lengths
from pipeline.data.taggers.pii import Pii
from pipeline.data.tagging import tag_documents
from pipeline.store.memo import FileMemo
from pipeline.tokens.format import TokenShardWriter
from pipeline.tokens.tokenizer import train_tokenizer
from pipeline.tokens.tokenizing import tokenize_documents
from tests.data.conftest import make_documents
from tests.small_disk import in_a_child, leftovers, small_disk

STEPS = ("tag", "filter", "tokenize", "dedup", "near_duplicates")


class Work:
    """The steps over two shards of text that packs badly."""

    def __init__(self, root):
        letters = random.Random(1)
        texts = [bytes(letters.choices(range(97, 123), k=200)).decode() for _ in range(600)]
        mails = [f"{each[:50]} {each[50:60]}@{each[60:70]}.org {each[70:]}" for each in texts]
        self.documents = make_documents(root / "documents", [mails[:300], mails[300:]])
        self.measured = tag_documents(self.documents, [Pii()], out=root / "measured")
        self.tokenizer = train_tokenizer(self.documents, vocab_size=300, out=root / "tokenizer")

    def do(self, step, root):
        """The content of what a step makes below a folder."""
        out, memo = root / "out", FileMemo(root / "memo")
        if step == "tag":
            made = tag_documents(self.documents, [Pii(), Lengths()], out=out, memo=memo)
        elif step == "filter":
            rules = [Replace("pii.email_address", "x")]
            made = filter_documents(self.documents, [self.measured], rules, out=out, memo=memo)
        elif step == "tokenize":
            made = tokenize_documents(self.documents, self.tokenizer, out=out, memo=memo)
        elif step == "dedup":
            made = deduplicate(self.documents, by=["document", "paragraph"], out=out)
        else:
            made = find_near_duplicates(self.documents, ngram_words=1, out=out)
        made.verify()
        return made.content


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Work(tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("step", STEPS)
def test_a_disk_with_no_room_for_a_step_is_said_to_be_full(work, tmp_path, step):
    expected = work.do(step, tmp_path / "elsewhere")
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        failed = 0
        for room in range(8 << 10, 2 << 20, 20 << 10):  # whichever of the writes finds none
            (disk / "filler").write_bytes(bytes((4 << 20) - room))
            root = disk / str(room)
            try:
                made = work.do(step, root)
            except (OSError, ShardFailed) as error:
                assert "No space left on device" in str(error)
                failed += 1
            else:
                assert made == expected
                break
            finally:
                (disk / "filler").unlink()
            assert leftovers(root) == []
            assert work.do(step, root) == expected
            shutil.rmtree(root)
        assert failed and made == expected


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("most", [100, 3000, 20_000])
def test_a_file_that_may_not_grow_is_told_and_a_later_run_goes_on(work, tmp_path, step, most):
    expected = work.do(step, tmp_path / "elsewhere")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    said = in_a_child(lambda: work.do(step, tmp_path / "out"), limit)
    if "made" not in said:
        assert said["error"] in ("OSError", "ShardFailed") and "File too large" in said["says"]
    assert most > 100 or "error" in said
    assert leftovers(tmp_path) == []
    assert work.do(step, tmp_path / "out") == expected


@pytest.mark.parametrize("room", [0, 5000, 40_000])
def test_ids_that_find_no_room_leave_neither_of_their_files(tmp_path, room):
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        (disk / "filler").write_bytes(bytes((1 << 20) - room))
        with (
            pytest.raises(OSError, match="No space left on device"),
            TokenShardWriter(disk, 0, "uint16") as writer,
        ):
            for number in range(20):
                writer.write(["s"], [os.urandom(50).hex()], [[number] * 5000])
        assert [each.name for each in disk.iterdir()] == ["filler"]
