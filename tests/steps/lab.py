"""A folder in which experiments of toy steps are run as from a shell."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SETTINGS = """
workspace: {type: local, dir: ws}
executor: {type: olmo}
include_package: [steps, tests.steps.toys]
log_level: warning
"""


def ref(name):
    return {"type": "ref", "ref": name}


def toy(*inputs, value=1, **more):
    """The configuration of a toy step that reads some others."""
    return {"type": "toy_sum", "inputs": [ref(each) for each in inputs], "value": value, **more}


class Lab:
    """A folder with a `tango.yml` in which experiments are run as from a shell."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "tango.yml").write_text(SETTINGS)
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        self.env.pop("OLMO_IN_PROCESS", None)  # as users do

    def write(self, name="x.json", **graph):
        (self.folder / name).write_text(json.dumps({"steps": graph}))
        return name

    def start(self, *arguments, module="steps.cli"):
        command = [sys.executable, "-m", module, "run", *arguments]
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.env, **out)

    def run(self, *arguments, module="steps.cli"):
        running = self.start(*arguments, module=module)
        running.stdout_text, running.stderr_text = running.communicate(timeout=120)
        return running

    def wait_for(self, pattern, running):
        """The first file of that name, when it is there and written."""
        deadline = time.monotonic() + 60
        while not (found := list(self.folder.glob(pattern))):
            assert time.monotonic() < deadline and running.poll() is None
            time.sleep(0.05)
        time.sleep(0.3)
        return found[0]

    def log(self, run, step):
        return (self.folder / "ws" / "runs" / run / "logs" / f"{step}.log").read_text()
