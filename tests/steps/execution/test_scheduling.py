import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.execution.scheduling import Demand, Failure, Outcome, Scheduler

RAN = Outcome("ran")


class Machine:
    """A runner without processes: time passes when it is waited for; each step takes a second."""

    def __init__(self, answers=None):
        self.answers = {name: list(each) for name, each in (answers or {}).items()}
        self.now, self.running, self.order, self.most = 0.0, [], [], []

    def submit(self, name):
        self.running.append((self.now + 1, name))
        self.order.append(name)
        self.most.append({each for _, each in self.running})

    def finished(self, timeout):
        end, name = min(self.running)
        if timeout is not None and end > self.now + timeout:
            self.now += timeout
            return []
        self.now = max(self.now, end)
        self.running.remove((end, name))
        left = self.answers.get(name)
        return [(name, left.pop(0) if left else RAN)]

    def sleep(self, seconds):
        self.now += seconds

    def run(self, reads, **options):
        made = Scheduler(reads, self, sleep=self.sleep, clock=lambda: self.now, **options)
        return made.run()


@st.composite
def graphs(draw):
    names = [f"s{i}" for i in range(draw(st.integers(1, 12)))]
    return {
        name: draw(st.lists(st.sampled_from(names[:place]), max_size=3)) if place else []
        for place, name in enumerate(names)
    }


@given(graphs(), st.integers(1, 4), st.data())
def test_every_step_runs_once_after_what_it_reads_or_not_at_all_below_a_failure(reads, slots, data):
    failing = data.draw(st.sets(st.sampled_from(list(reads)), max_size=2))
    machine = Machine({name: [Outcome("failed", failure=Failure("E", "x"))] for name in failing})
    outcomes = machine.run(reads, slots=slots)
    below = set(failing)
    for name, read in reads.items():
        if below & set(read):
            below.add(name)
    assert sorted(machine.order) == sorted(n for n in reads if not below & set(reads[n]))
    for name in machine.order:
        assert all(machine.order.index(each) < machine.order.index(name) for each in reads[name])
    for name in reads:
        state = "failed" if name in machine.order and name in failing else "ran"
        assert outcomes[name].state == (state if name in machine.order else "not run")
    assert max(map(len, machine.most)) <= slots


@given(graphs(), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_what_runs_at_once_stays_within_the_machine(reads, cpus):
    demands = {name: Demand(cpus=cpus[place]) for place, name in enumerate(reads)}
    machine = Machine()
    machine.run(reads, slots=8, demands=demands, capacity=Demand(cpus=3))
    assert all(sum(demands[each].cpus for each in at_once) <= 3 for at_once in machine.most)
    assert sorted(machine.order) == sorted(reads)


def test_the_longest_way_to_the_end_starts_first():
    reads = {"a": [], "b": [], "c": ["b"], "d": ["c"], "e": []}
    machine = Machine()
    machine.run(reads, slots=1)
    assert machine.order[0] == "b"
    machine = Machine()
    machine.run(reads, slots=1, seconds={"e": 100.0})
    assert machine.order[0] == "e"


def test_a_step_that_others_work_on_holds_up_nobody():
    machine = Machine({"b": [Outcome("busy")] * 2})
    reads = {"b": [], "c": ["b"], "other": [], "more": ["other"]}
    outcomes = machine.run(reads)
    assert all(each.state == "ran" for each in outcomes.values())
    assert machine.order[:2] == ["b", "other"] and machine.order.count("b") == 3


def test_a_busy_step_is_asked_after_at_most_every_second():
    machine = Machine({"a": [Outcome("busy")] * 50})
    machine.run({"a": []})
    assert len(machine.order) == 51 and 50 + 40 < machine.now < 50 + 51


def test_a_lost_step_is_started_again_and_fails_when_it_is_lost_too_often():
    lost = Outcome("lost", note="worker 7 is gone")
    machine = Machine({"a": [lost]})
    assert machine.run({"a": []})["a"].state == "ran"
    machine = Machine({"a": [lost] * 2})
    outcomes = machine.run({"a": [], "b": ["a"]})
    assert outcomes["a"].state == "failed" and outcomes["a"].failure.message == "worker 7 is gone"
    assert outcomes["b"].state == "not run"


def test_known_outcomes_are_not_submitted_and_their_readers_start():
    machine = Machine()
    outcomes = machine.run({"a": [], "b": ["a"]}, known={"a": Outcome("cached")})
    assert machine.order == ["b"] and outcomes["a"].state == "cached"


def test_a_step_larger_than_the_machine_fails_and_the_rest_runs():
    machine = Machine()
    reads = {"a": [], "b": []}
    outcomes = machine.run(reads, demands={"a": Demand(gpus=8)}, capacity=Demand(gpus=1))
    assert outcomes["a"].state == "failed" and "8 GPUs" in outcomes["a"].failure.message
    assert outcomes["b"].state == "ran"


def test_an_error_of_the_runner_ends_the_run():
    class Stopping(Machine):
        def finished(self, timeout):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stopping().run({"a": []})
