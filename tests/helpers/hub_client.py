"""Processes that are clients of the loopback Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .loopback_hub import LoopbackHub

TRAINING = Path(__file__).parents[2] / "training"


class Client:
    """Starts processes that know this Hub, a token that may write, and a cache of their own.

    Attributes:
        home: their working folder, with the Hub's `cache` in it.
    """

    def __init__(self, hub: LoopbackHub, home: Path):
        self.hub, self.home = hub, home
        self.variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HF_HOME": str(home / "cache"),
            "HF_TOKEN": "hf_writer",
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *words: str | Path) -> subprocess.Popen:
        """Start `python WORDS ...` with pipes."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([sys.executable, *words], cwd=self.home, env=self.variables, text=True, **pipes)

    def run(self, *words: str | Path, fails: bool = False) -> str:
        """Run `python WORDS ...` and return what it printed, on stderr if it is to fail."""
        process = self.start(*words)
        printed, complained = process.communicate(timeout=300)
        assert (process.returncode != 0) == fails, complained
        return complained if fails else printed

    def script(self, name: str, *words: str | Path, fails: bool = False) -> str:
        """Run `python training/NAME WORDS ...`."""
        return self.run(TRAINING / name, *words, fails=fails)


class Caller:
    """A client process (`hub_calls.py`) that makes one call after the other: starting it takes seconds."""

    def __init__(self, client: Client):
        self.process = client.start(Path(__file__).with_name("hub_calls.py"))

    def __call__(self, function: str, **arguments) -> str:
        """Return what the function returns, or `ErrorType: message`."""
        self.process.stdin.write(json.dumps([function, arguments], default=str) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.process.stderr.read()
        return json.loads(answer)
