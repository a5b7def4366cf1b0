"""All parsers that are fuzzed."""

from .checkpoint_targets import CHECKPOINT_TARGETS
from .data_targets import DATA_TARGETS
from .result_targets import RESULT_TARGETS

TARGETS = DATA_TARGETS | CHECKPOINT_TARGETS | RESULT_TARGETS
