"""Where ranks of several machines meet: who may join, who has no right any more, and no pickles."""

import pickle
import threading
from datetime import UTC, datetime

import pytest
from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from torch.distributed.elastic.rendezvous.api import RendezvousStateError

from pipeline.core.errors import CorruptShard, PipelineError
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.ranks.launches import Launch
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.ranks.meeting import Attempt, meeting, open_attempt
from pipeline.train.ranks.rendezvous import StateAsJson, state_as_json
from pipeline.train.series import saved
from tests.train.conftest import config
from tests.train.test_stopping import rows_of


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"attempt": 3}', "[" * 200_000])
def test_a_meeting_that_names_no_run_is_refused_by_its_file(tmp_path, text):
    assert open_attempt(tmp_path) is None
    (tmp_path / ".ranks").mkdir(parents=True)
    (tmp_path / ".ranks" / "open.json").write_text(text)
    with pytest.raises(CorruptShard, match="open.json: names no run to join"):
        open_attempt(tmp_path)


def test_an_end_that_cannot_read_who_may_join_hides_no_error(tmp_path):
    with pytest.raises(ZeroDivisionError), meeting(tmp_path, joins=False):
        (tmp_path / ".ranks" / "open.json").write_text("[")
        raise ZeroDivisionError


def test_a_rank_whose_run_has_ended_or_was_followed_by_another_has_no_right_to_the_series(tmp_path):
    with meeting(tmp_path, joins=False):
        first = Attempt(tmp_path, open_attempt(tmp_path))
        first.require_open()
        with meeting(tmp_path, joins=False):
            Attempt(tmp_path, open_attempt(tmp_path)).require_open()
            with pytest.raises(PipelineError, match="another one has begun"):
                first.require_open()
    with pytest.raises(PipelineError, match="has ended"):
        first.require_open()
    with meeting(tmp_path, joins=False):
        Attempt(tmp_path, open_attempt(tmp_path)).require_open()
        run_ranks(Ranks.require_open, Launch(), tmp_path)  # the lead was killed, another one began
        assert open_attempt(tmp_path) is None


@pytest.mark.parametrize("writes", ["rows", "checkpoints"])
def test_ranks_of_a_run_that_another_took_over_write_nothing_more(
    run, tmp_path, monkeypatch, writes
):
    def require_open(self):
        of_rows = threading.current_thread() is threading.main_thread()
        if of_rows == (writes == "rows"):
            raise PipelineError("another run has begun")

    monkeypatch.setattr(Ranks, "require_open", require_open)
    with pytest.raises(PipelineError, match="another run has begun"):
        run(config(6, save_steps=3), series="b" * 64)
    series = tmp_path / "series" / ("b" * 64)
    assert (rows_of(series) == []) if writes == "rows" else (saved.find_checkpoints(series) == [])


@pytest.fixture
def state():
    made, nodes = dynamic_rendezvous._RendezvousState(), []
    for number in range(3):
        nodes.append(dynamic_rendezvous._NodeDesc(f"node{number}", 40 + number, 0))
    made.round, made.complete, made.deadline = 3, True, datetime(2026, 1, 2, tzinfo=UTC)
    made.participants = {nodes[0]: 0, nodes[1]: 1}
    made.wait_list, made.redundancy_list = {nodes[2]}, {nodes[1]}
    made.last_heartbeats = {each: datetime.now(UTC) for each in nodes}
    return made


def test_what_agents_tell_each_other_is_the_same_as_json(state):
    for each in (state, dynamic_rendezvous._RendezvousState()):
        assert vars(StateAsJson.loads(StateAsJson.dumps(each))) == vars(each)


class Backend:
    """Holds what somebody else wrote."""

    def __init__(self, held):
        self.held = held

    def get_state(self):
        return self.held, 1


class Runs:
    def __reduce__(self):
        return (open, ("pickle was loaded", "w"))


@pytest.mark.parametrize("held", [pickle.dumps(Runs()), b"{}", b"[" * 10**6])
def test_a_pickle_that_was_put_in_their_place_is_not_loaded(tmp_path, monkeypatch, held):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dynamic_rendezvous, "pickle", dynamic_rendezvous.pickle)
    state_as_json()
    settings = dynamic_rendezvous.RendezvousSettings
    holder = dynamic_rendezvous._BackendRendezvousStateHolder(
        Backend(held), settings("run", 1, 2, dynamic_rendezvous.RendezvousTimeout(), None, 3)
    )
    with pytest.raises(RendezvousStateError):
        holder.sync()
    assert list(tmp_path.iterdir()) == []
