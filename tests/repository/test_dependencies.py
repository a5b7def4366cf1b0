"""What the package needs is little, and known to the version."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = [line.split("==") for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()]
PINS = {canonicalize_name(name): version for name, version in LINES}
MOST_DEPENDENCIES = 20


def test_a_plain_installation_needs_few_packages():
    assert len(PROJECT["dependencies"]) <= MOST_DEPENDENCIES


def test_each_package_is_pinned_to_a_version_that_is_admitted():
    groups = {"dependencies": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    for group in ("dependencies", "dev"):
        names = [group]
        for requirement in map(Requirement, groups[group]):
            names += requirement.extras if requirement.name == PROJECT["name"] else []
        for requirement in (Requirement(line) for name in names for line in groups[name]):
            if requirement.name != PROJECT["name"]:
                assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement
    assert all(re.fullmatch(r"[\w.+]+", pin) for pin in PINS.values())
