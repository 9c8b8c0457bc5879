from pipeline.core.errors import CorruptShard, nearest


def test_a_wrong_name_is_told_with_the_nearest_or_with_some_of_what_there_is():
    assert nearest("kpet", ["kept", "other"]) == "; did you mean 'kept'?"
    assert nearest("zz", ["b", "a"]) == "; there is a, b"
    many = nearest("zz", [f"name{number:02}" for number in range(50)])
    assert many.startswith("; there is name00, ") and many.endswith("name11 and 38 more")
    assert nearest("zz", []) == ""


def test_a_path_is_named_once():
    error = CorruptShard("/a/b", 3, "not readable ([Errno 2] No such file: '/a/b')")
    assert str(error) == "/a/b record 3: not readable ([Errno 2] No such file)"
