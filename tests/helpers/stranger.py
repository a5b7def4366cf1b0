"""Run where nothing of this package is installed: loads models and processors by their names, scores the same samples.

stranger.py FEATURES.safetensors SCORES.safetensors JSON

FEATURES holds the clips of `{modality}.{sample}`. JSON is a list of `{"name": folder or Hub name}`, with what there is
of `load` (more arguments of every `from_pretrained`), `model` (of the model's alone) and `again` (a folder to save to
and to load from). SCORES gets the scores of entry i as `i`, and as `i.again`.
"""

import importlib.util
import json
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoProcessor

for package in ("limssr", "peft", "datasets"):
    assert importlib.util.find_spec(package) is None, package

stored, scores = load_file(sys.argv[1]), {}
modalities = dict.fromkeys(key.split(".")[0] for key in stored)
count = 1 + max(int(key.split(".")[1]) for key in stored)
features = {name: [stored.get(f"{name}.{sample}") for sample in range(count)] for name in modalities}


def load_and_score(name, load, model):
    config = AutoConfig.from_pretrained(name, trust_remote_code=True, **load)
    loaded = AutoModel.from_pretrained(name, trust_remote_code=True, **load, **model)
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True, **load)
    assert (type(config).__name__, type(processor).__name__) == ("LimssrConfig", "LimssrProcessor")
    assert type(loaded).__name__ == "LimssrForScoreRegression"
    with torch.no_grad():
        outputs = loaded(**processor(features=features))
    assert (outputs.interval is None) == (config.calibration is None)
    return loaded, processor, outputs.scores


for index, entry in enumerate(json.loads(sys.argv[3])):
    model, processor, scores[str(index)] = load_and_score(entry["name"], entry.get("load", {}), entry.get("model", {}))
    if "again" in entry:
        model.save_pretrained(entry["again"])
        processor.save_pretrained(entry["again"])
        scores[f"{index}.again"] = load_and_score(entry["again"], {}, {})[2]
save_file(scores, sys.argv[2])
