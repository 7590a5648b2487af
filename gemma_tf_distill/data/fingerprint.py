"""A fingerprint of what `corpus.source` names, so that a changed corpus misses the pipeline's cache."""

import hashlib
import importlib.metadata
import json
import os
from typing import Any

from gemma_tf_distill.config import CorpusConfig
from gemma_tf_distill.data import docstrings, files
from gemma_tf_distill.data.documents import expand_sources


def corpus_fingerprint(config: CorpusConfig) -> str:
    """sha256, in hexadecimal, over the names and states of the files that make up a corpus, without reading them.

    A file's state is its size and the time of its last change. For installed packages it is their versions, and their files' names and
    sizes, but no times: the same packages installed anew are the same corpus.

    Raises:
      CorpusError: if a source is missing.
    """
    site_packages = docstrings.site_packages()
    packages: set[str] = set()
    states: list[Any] = []
    for shard in expand_sources(config):
        if shard.kind != "docstrings":
            states.append((shard.kind, shard.paths[0], *files.stat(shard.paths[0])))
            continue
        for root in shard.paths:
            folder, name = os.path.split(root)
            packages.add(name.removesuffix(".py"))
            # Code outside site-packages is somebody's own, and edited without a new version.
            installed = folder in site_packages
            for path in docstrings.module_files(root):
                size, changed = files.stat(path)
                states.append((shard.kind, os.path.relpath(path, folder), size, None if installed else changed))
    if packages:
        owners = importlib.metadata.packages_distributions()
        distributions = {owner for package in packages for owner in owners.get(package, ())}
        states.extend((owner, importlib.metadata.version(owner)) for owner in sorted(distributions))
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()
