"""Steps as anybody would write them with Tango alone, for bench_overhead.py."""

import time

from tango import Step


@Step.register("add")
class Add(Step):
    """Add up numbers, which takes no time of its own."""

    def run(self, inputs: list[int], value: int, seconds: float = 0.0) -> int:
        time.sleep(seconds)
        return sum(inputs) + value
