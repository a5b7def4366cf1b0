"""Names from elsewhere move no cursor, forge no line and are no HTML."""

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError

from limssr import LimssrConfig
from limssr.training.data.sources.labels import LabelError, read_label_csv
from limssr.training.data.sources.walk import find_samples
from limssr.training.utils.launching import exit_on_error
from limssr.training.utils.markdown import markdown_table
from limssr.training.utils.text import printable, printable_lines

RED = "\x1b[31mred"
BACKWARDS = "a\u202egpj.exe"


def test_control_characters_are_spelt_out_and_letters_stay():
    assert printable(RED) == r"\x1b[31mred"
    assert printable(BACKWARDS) == r"a\u202egpj.exe"
    assert printable("two\nlines\x9b") == r"two\nlines\x9b"
    assert printable_lines(f"two\n{RED}\n") == "two\n\\x1b[31mred\n"
    assert printable("Größe 日本語 \U0001f938") == "Größe 日本語 \U0001f938"


def test_names_of_files_messages_and_tables_are_harmless(tmp_path):
    (tmp_path / f"{RED}.npy").touch()
    assert list(find_samples(tmp_path, (".npy",))) == [r"\x1b[31mred"]
    with pytest.raises(SystemExit) as stop, exit_on_error("reading"):
        raise ValueError(f"{RED}: no such file")
    assert str(stop.value) == r"reading: \x1b[31mred: no such file"
    table = markdown_table([("name", "x"), (f"<script>|{RED}", 1)])
    assert "<script>" not in table
    assert "\x1b" not in table
    assert r"&lt;script>\|\x1b[31mred" in table


@pytest.mark.parametrize("name", [RED, BACKWARDS, "\x9b2J"])
def test_ids_and_scores_with_control_characters_are_refused(tmp_path, name):
    path = tmp_path / "labels.csv"
    path.write_text(f"sample_id,score\n{name},1\n", encoding="utf-8")
    with pytest.raises(LabelError, match=r"line 2: the id .* has a line break or another control character"):
        read_label_csv(path, ["score"], [])
    with pytest.raises(StrictDataclassClassValidationError, match="control characters are not allowed"):
        LimssrConfig(score_names=[name])
