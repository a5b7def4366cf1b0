"""A client of the Hub: reads `[function, arguments]` line by line and answers with the result or the error."""

import json
import sys

from limssr import LimssrForScoreRegression
from limssr.training.arguments import parse_training_arguments
from limssr.training.fitting.run import prepare_run
from limssr.training.hub.publish import publish
from limssr.training.hub.repository import fetch_checkpoint


def prepare(words: list[str]) -> str:
    """Prepare a training run up to its first step."""
    return type(prepare_run(*parse_training_arguments(words))).__name__


def save_and_push(folder: str, again: str, **where) -> None:
    LimssrForScoreRegression.from_pretrained(folder).save_pretrained(again, push_to_hub=True, **where)


FUNCTIONS = {
    "fetch_checkpoint": fetch_checkpoint,
    "publish": publish,
    "prepare": prepare,
    "save_and_push": save_and_push,
}
answers, sys.stdout = sys.stdout, sys.stderr

for line in sys.stdin:
    function, arguments = json.loads(line)
    try:
        answer = FUNCTIONS[function](**arguments)
    except (OSError, ValueError) as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), file=answers, flush=True)
