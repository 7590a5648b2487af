import importlib.util
import pathlib
import subprocess
import sys

import pytest

from components import digest
from components.digest import source_digest

FILES = {
    "components/__init__.py": "",
    "components/part/__init__.py": "",
    "components/part/component.py": "from gemma_tf_distill.room import tool\nfrom . import helper\nimport os, numpy.linalg\n",
    "components/part/helper.py": "from ..shared import thing\n",
    "components/shared.py": "def thing():\n    import gemma_tf_distill.lazy\n",
    "components/other.py": "",
    "gemma_tf_distill/__init__.py": "",
    "gemma_tf_distill/room/__init__.py": "",
    "gemma_tf_distill/room/tool.py": "import gemma_tf_distill.room.circle\n",
    "gemma_tf_distill/room/circle.py": "from gemma_tf_distill.room import tool\nfrom components.part.component import x\n",
    "gemma_tf_distill/room/unused.py": "",
    "gemma_tf_distill/lazy.py": "",
}
UNUSED = ["components/other.py", "gemma_tf_distill/room/unused.py"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def spec(name):
        found = importlib.util.spec_from_loader(name, None, is_package=True)
        found.submodule_search_locations = [str(tmp_path / name)]
        return found

    monkeypatch.setattr(digest.importlib.util, "find_spec", spec)
    return tmp_path


@pytest.mark.parametrize("name", sorted(set(FILES) - set(UNUSED)))
def test_changing_a_file_in_the_closure_changes_the_digest(tree, name):
    before = source_digest("components.part.component")
    content = (tree / name).read_text()
    (tree / name).write_text(content + "# changed\n")
    assert source_digest("components.part.component") != before
    (tree / name).write_text(content)
    assert source_digest("components.part.component") == before


@pytest.mark.parametrize("name", UNUSED)
def test_changing_another_file_does_not(tree, name):
    before = source_digest("components.part.component")
    (tree / name).write_text("x = 1\n")
    assert source_digest("components.part.component") == before


def test_a_new_file_beside_does_not_and_a_new_import_does(tree):
    before = source_digest("components.part.component")
    (tree / "components/part/new.py").write_text("")
    assert source_digest("components.part.component") == before
    with (tree / "components/part/helper.py").open("a") as file:
        file.write("from components import other\n")
    with_other = source_digest("components.part.component")
    assert with_other != before
    (tree / "components/other.py").write_text("x = 1\n")
    assert source_digest("components.part.component") != with_other


def test_modules_in_a_circle_are_each_read_once(tree):
    names = digest._closure("gemma_tf_distill.room.circle")
    assert {"gemma_tf_distill.room.tool", "gemma_tf_distill.room.circle", "components.part.component"} <= set(names)
    assert not {"components.other", "gemma_tf_distill.room.unused", "os", "numpy.linalg"} & set(names)


def test_content_counts_and_not_the_place(tree, monkeypatch):
    before = source_digest("components.part.component")
    moved = tree.with_name("moved")
    tree.rename(moved)
    spec = digest.importlib.util.find_spec

    def moved_spec(name):
        found = spec(name)
        found.submodule_search_locations = [str(moved / name)]
        return found

    monkeypatch.setattr(digest.importlib.util, "find_spec", moved_spec)
    assert source_digest("components.part.component") == before


@pytest.mark.parametrize("name", ["components.no_such", "numpy", "json.decoder"])
def test_a_module_that_is_not_ours(name):
    with pytest.raises(ValueError, match=f"'{name}' is no module of gemma_tf_distill, components, tfx_pipeline"):
        source_digest(name)


def test_the_real_component_depends_on_what_it_uses_and_on_no_other_room():
    names = set(digest._closure("components.corpus_gen.component"))
    assert {
        "components",
        "components.artifacts",
        "components.corpus_gen.graph",
        "gemma_tf_distill.data.docstring_worker",
        "gemma_tf_distill.data.packing",
        "gemma_tf_distill.gemma.vocabulary",
    } <= names
    rooms = {name.split(".")[1] for name in names if name.startswith("gemma_tf_distill.")}
    assert not rooms & {"training", "export", "teacher", "cli"}


def test_importing_components_imports_neither_tfx_nor_tensorflow():
    program = (
        "import sys, components, components.digest; components.digest.source_digest('components.corpus_gen.component')\n"
        "print([name for name in ('tfx', 'tensorflow', 'apache_beam') if name in sys.modules])"
    )
    root = pathlib.Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True).stdout == "[]\n"
