"""Does what the documents say: reads tasks, one JSON object a line, and answers each with what went wrong or null.

document_reader.py LOG      what the tasks print goes into that file

{"page": ..., "folder": ..., "python": CODE}              blocks of one page share a namespace
{"page": ..., "folder": ..., "script": PATH or MODULE, "words": [...], "parse_only": false}
"""

import argparse
import json
import os
import runpy
import sys
import traceback
from contextlib import ExitStack
from unittest import mock

from accelerate.state import AcceleratorState
from transformers import HfArgumentParser


class ParsedError(Exception):
    """The arguments of a script were understood; it goes no further."""


def stop_after(parse):
    """The same method of a parser, but the script that calls it ends there."""

    def parse_and_stop(*arguments, **options):
        parse(*arguments, **options)
        raise ParsedError

    return parse_and_stop


def run_script(script: str, words: list[str], parse_only: bool) -> None:
    sys.argv = [script, *words]
    methods = [(argparse.ArgumentParser, "parse_args"), (HfArgumentParser, "parse_args_into_dataclasses")]
    with ExitStack() as stack:
        for owner, name in methods if parse_only else []:
            stack.enter_context(mock.patch.object(owner, name, stop_after(getattr(owner, name))))
        stack.callback(AcceleratorState._reset_state, reset_partial_state=True)
        try:
            run = runpy.run_path if script.endswith(".py") else runpy.run_module
            run(script, run_name="__main__")
        except ParsedError:
            pass
        except SystemExit as end:
            if end.code not in (None, 0):
                raise


log = open(sys.argv[1], "w", encoding="utf-8")  # noqa: SIM115 (to the end)
answers = os.fdopen(os.dup(1), "w")
os.dup2(log.fileno(), 1)
os.dup2(log.fileno(), 2)
namespaces: dict[str, dict] = {}

for line in sys.stdin:
    task = json.loads(line)
    os.chdir(task["folder"])
    try:
        if "python" in task:
            exec(task["python"], namespaces.setdefault(task["page"], {"__name__": "__main__"}))  # noqa: S102 (our own documents)
        else:
            run_script(task["script"], task["words"], task["parse_only"])
        wrong = None
    except BaseException:
        wrong = traceback.format_exc()
    print(json.dumps(wrong), file=answers, flush=True)
