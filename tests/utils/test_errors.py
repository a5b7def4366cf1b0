"""What a user can mend is one line; what only we can mend is a traceback."""

import pickle

import pyarrow as pa
import pytest
import yaml
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors import SafetensorError

from limssr.training.data.sources.pickles import UnsafePickleError
from limssr.training.utils.errors import LONGEST_MESSAGE, brief, reading, taking_fields
from limssr.training.utils.launching import exit_on_error

OF_USERS = [
    SafetensorError("header too large"),
    StrictDataclassFieldValidationError("field", TypeError("expected int")),
    UnsafePickleError("it asks for os.system"),
    pickle.UnpicklingError("invalid load key"),
    yaml.YAMLError("mapping values"),
    pa.ArrowNotImplementedError("no cast"),
    pa.ArrowInvalid("no Parquet"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
]


@pytest.mark.parametrize("error", OF_USERS, ids=lambda error: type(error).__name__)
def test_what_libraries_raise_at_a_file_is_one_line_with_the_file(error):
    with pytest.raises(SystemExit) as caught, exit_on_error("cannot read"), reading("runs/a.bin"):
        raise error
    assert str(caught.value).startswith("cannot read: runs/a.bin: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("None"), AttributeError("x"), RuntimeError("a bug")])
def test_our_own_mistakes_stay_tracebacks(error):
    with pytest.raises(type(error)), exit_on_error(), reading("a.bin"):
        raise error


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("None"), AttributeError("x"), IndexError("0")])
def test_fields_that_are_damaged_are_one_line_with_their_file(error):
    said = r"^a\.json is damaged or of another version \(.*\); run it again$"
    with pytest.raises(ValueError, match=said), taking_fields("a.json", "run it again"):
        raise error


def test_a_message_is_cut_to_a_line():
    assert len(brief(ValueError("x\n" * 10_000))) <= LONGEST_MESSAGE + 4
    assert brief(MemoryError()) == "MemoryError"
