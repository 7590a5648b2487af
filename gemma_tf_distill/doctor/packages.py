"""Installed versions against those that this project asks for."""

import contextlib
import functools
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from gemma_tf_distill.doctor.finding import NOTE, OK, PROBLEM, Finding

_DISTRIBUTION = "gemma-tf-distill"
# The core and the extras, in the order in which a package that several of them name is shown once.
_EXTRAS = ("", "tfx", "litert", "demo", "vertex", "dev", "tpu", "transformers")
_DEMO_EXTRAS = ("", "tfx", "litert", "demo")
_NOT_IN_SETUP = ("tpu", "transformers")
# Not named by this project but by TFX, and the first to be at odds with each other.
_TFX_FAMILY = (
    "apache-beam",
    "ml-metadata",
    "protobuf",
    "tensorflow-data-validation",
    "tensorflow-model-analysis",
    "tensorflow-transform",
    "tfx-bsl",
)


def _requirements(distribution: str, extras: tuple[str, ...]) -> Iterator[tuple[str, Requirement, str]]:
    """What an installed distribution's metadata, which pyproject.toml wrote, asks for: name, requirement, the extra that asks."""
    requirements = [Requirement(text) for text in metadata.requires(distribution) or []]
    for extra in extras:
        for requirement in requirements:
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield canonicalize_name(requirement.name), requirement, extra


def packages() -> Iterator[Finding]:
    """A row for each package that pyproject.toml names, and for those that TFX names and that are the first to be at odds."""
    try:
        asked = list(_requirements(_DISTRIBUTION, _EXTRAS))
    except metadata.PackageNotFoundError:
        yield Finding(section="packages", name=_DISTRIBUTION, state=PROBLEM, found="not installed", advice="make setup")
        return
    with contextlib.suppress(metadata.PackageNotFoundError):
        asked += [(name, requirement, "tfx") for name, requirement, _ in _requirements("tfx", ("",)) if name in _TFX_FAMILY]
    first: dict[str, tuple[Requirement, str]] = {}
    for name, requirement, extra in sorted(asked, key=lambda item: _EXTRAS.index(item[2])):
        if name != _DISTRIBUTION:
            first.setdefault(name, (requirement, extra))
    for name, (requirement, extra) in first.items():
        yield _package(name, requirement.specifier, extra)


def _package(name: str, wanted: SpecifierSet, extra: str) -> Finding:
    row = functools.partial(Finding, section=f"packages of the extra {extra}" if extra else "packages", name=name)
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = "missing"
    else:
        if wanted.contains(found, prereleases=True):
            return row(state=OK, found=found)
    install = f"pip install '{_DISTRIBUTION}[{extra}]'" if extra else f"pip install {_DISTRIBUTION}"
    return row(
        state=PROBLEM if extra in _DEMO_EXTRAS else NOTE,
        found=found,
        wanted=str(wanted) or "any version",
        advice=install if extra in _NOT_IN_SETUP else f"make setup, or {install}",
    )
