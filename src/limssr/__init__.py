"""LIMSSR: action quality assessment with missing modalities, as Hugging Face models, processors and trainers.

Names are imported when they are asked for, so that a script without a model starts without torch. The Auto classes of
transformers know the model type as soon as they and this package are imported, in whatever order.
"""

import logging
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

__version__ = "0.1.0"

if not Path(__file__).with_name("training").is_dir():  # a checkout, where the other parts lie at its top
    __path__.append(str(Path(__file__).parents[2]))

_MODULES = {
    "LimssrCollator": "limssr.training.fitting.collator",
    "LimssrConfig": "limssr.configuration",
    "LimssrForScoreRegression": "limssr.modeling_limssr",
    "LimssrModel": "limssr.modeling_limssr",
    "LimssrPreTrainedModel": "limssr.modeling_limssr",
    "LimssrProcessor": "limssr.processing",
    "LimssrScoreOutput": "limssr.modeling_limssr",
    "LimssrTrainer": "limssr.training.fitting.trainer",
    "LimssrTrainingArguments": "limssr.training.arguments",
}
# Module of transformers -> the package that registers its class there when it is imported.
_REGISTERED_BY = {
    "transformers.models.auto.configuration_auto": "limssr.configuration",
    "transformers.models.auto.modeling_auto": "limssr.modeling_limssr",
    "transformers.models.auto.processing_auto": "limssr.processing",
    "transformers.pipelines": "limssr.processing.registration",
}

__all__ = list(_MODULES)

# `Trainer` imports peft, and peft bitsandbytes, which then warns of a kernel that it lacks for CPUs.
# Nobody asked for it, and quantised LIMSSR models never use it (see `confine_quantization`). bitsandbytes looks for it
# while it is imported, so there is no other switch.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")
)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'limssr' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


class _RegisterOnImport(PathFinder):
    """Imports a package of `_REGISTERED_BY` right after the module of transformers."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        spec = super().find_spec(fullname, path, target) if fullname in _REGISTERED_BY else None
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module) -> None:
                execute(module)
                import_module(_REGISTERED_BY[fullname])

            spec.loader.exec_module = execute_and_register
        return spec


sys.meta_path.insert(0, _RegisterOnImport)
for _name in _REGISTERED_BY.keys() & sys.modules.keys():
    import_module(_REGISTERED_BY[_name])
