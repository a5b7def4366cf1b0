"""The words that tell the language model what is there and what is missing."""

import re
from dataclasses import dataclass, field


@dataclass
class Prompt:
    """
    Args:
        template (`str`): the prompt, with `{available}` and `{missing}` where the modalities are named. What does not
            depend on them comes first, so that all samples share it. With neither, all samples have the same prompt.
        modality_names (`dict[str, str]`): what a modality is called in the prompt; its own name where it is not
            listed.
        separator (`str`): between two names.
        none (`str`): stands where no modality is to be named.

    Raises:
        ValueError: the template names the available modalities but not the missing ones, or the other way round, or
            has other words in braces.
    """

    template: str = (
        "Judge how well this performance is executed. Infer what is missing from what is available, and gather all "
        "that matters for the score at the end. Available: {available}. Missing: {missing}."
    )
    modality_names: dict[str, str] = field(default_factory=dict)
    separator: str = ", "
    none: str = "none"

    def __post_init__(self):
        named = set(re.findall(r"{\w*}", self.template))
        if named not in (set(), {"{available}", "{missing}"}):
            raise ValueError(
                f"prompt template must contain {{available}} and {{missing}}, both or neither, and no other word in "
                f"braces; got {self.template!r}."
            )

    def write(self, modalities, mask: tuple[bool, ...]) -> str:
        """The prompt of a sample whose `mask` says of each modality whether it is there."""

        def name_all(wanted: bool) -> str:
            names = [
                self.modality_names.get(name, name)
                for name, there in zip(modalities, mask, strict=True)
                if there == wanted
            ]
            return self.separator.join(names) or self.none

        return self.template.replace("{available}", name_all(True)).replace("{missing}", name_all(False))
