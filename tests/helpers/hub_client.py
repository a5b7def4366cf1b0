"""Processes that are clients of the Hub on the loopback address."""

import os
import subprocess
import sys
from pathlib import Path

from .loopback_hub import LoopbackHub

REPOSITORY = Path(__file__).parents[2]


class Client:
    """Processes that know this Hub, a token that may write, and a cache of their own.

    Attributes:
        home: their folder; `cache` in it is of the Hub.
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
        """`python WORDS ...`, with pipes."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([sys.executable, *words], cwd=self.home, env=self.variables, text=True, **pipes)

    def run(self, *words: str | Path, fails: bool = False) -> str:
        """`python WORDS ...` to its end; what it printed, of one that fails on stderr."""
        process = self.start(*words)
        printed, complained = process.communicate(timeout=300)
        assert (process.returncode != 0) == fails, complained
        return complained if fails else printed

    def script(self, name: str, *words: str | Path, fails: bool = False) -> str:
        """`python training/NAME WORDS ...`"""
        return self.run(REPOSITORY / "training" / name, *words, fails=fails)
