"""The code beside a checkpoint only reads files, when it is imported, when it loads and when it scores."""

import subprocess
import sys

import pytest

WATCHED = """
import os, sys
import numpy, torch, transformers
import transformers.models.auto, transformers.models.qwen3.modeling_qwen3, transformers.pipelines

def watch(event, details):
    writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in FORBIDDEN or event.startswith(("socket.", "subprocess.", "urllib.", "ftplib.", "smtplib.")):
        print("EVENT", event, details, file=sys.stderr)

FORBIDDEN = {"os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.remove", "os.rename", "os.rmdir",
             "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "shutil.rmtree", "pickle.find_class",
             "ctypes.dlopen", "os.putenv"}
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
sys.addaudithook(watch)

import checkpoint.configuration_limssr, checkpoint.modeling_limssr, checkpoint.processing_limssr

print("imported", flush=True)
folder = f"{sys.argv[1]}/checkpoint"
model = checkpoint.modeling_limssr.LimssrForScoreRegression.from_pretrained(folder)
processor = checkpoint.processing_limssr.LimssrProcessor.from_pretrained(folder)
print("loaded", flush=True)
features = {"video": [numpy.zeros((4, 16), "float32")], "audio": [None], "flow": [None]}
print(model(**processor(features=features)).scores)
"""


@pytest.mark.slow
def test_import_load_and_score_only_read(checkpoint):
    words = [sys.executable, "-c", WATCHED, str(checkpoint.parent)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("EVENT")] == []
    assert "tensor([[" in done.stdout
