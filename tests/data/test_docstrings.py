import ast
import inspect
import pathlib
import subprocess
import sys
import textwrap
import warnings

import pytest

from gemma_tf_distill.config import CorpusConfig
from gemma_tf_distill.data import docstrings
from gemma_tf_distill.data.docstring_worker import docstrings_of
from gemma_tf_distill.data.documents import Shard, expand_sources, read_documents, read_shard
from gemma_tf_distill.errors import CorpusError


def test_finds_what_ast_finds_wherever_statements_are():
    source = textwrap.dedent(
        '''
        """Module."""
        import sys
        def f():
            "Function."
            async def g():
                """Nested,

                    and indented."""
            return "not one"
        if sys:
            class A:
                """In if."""
                try:
                    def m(self): """In try."""
                except ValueError:
                    class B: """In except."""
                else:
                    class C: """In else."""
                finally:
                    class D: """In finally."""
        for _ in ():
            with sys:
                while True:
                    class E: """In loops."""
        match sys:
            case 1:
                def h(): """In a case."""
        try:
            pass
        except* ValueError:
            def i(): """In a group."""
        x = """not one"""
        """not one"""
        '''
    ).encode()
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    expected = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    found = docstrings_of(source)
    assert sorted(found) == sorted(expected)
    assert found[:3] == ["Module.", "Function.", "Nested,\n\nand indented."]
    assert found[-2:] == ["In a case.", "In a group."]


def test_matches_ast_on_real_files():
    for name in ("json/decoder.py", "typing.py", "asyncio/base_events.py"):
        source = (pathlib.Path(inspect.__file__).parent / name).read_bytes()
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        expected = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
        assert sorted(docstrings_of(source)) == sorted(filter(None, expected)) != []


@pytest.mark.parametrize("source", [b"def f(:", b'"""a"""\0', b"\xff\xfe", b"# coding: nonsense\n", b"(" * 5000, b'"""\\ud800"""', b""])
def test_what_does_not_parse_has_none(source):
    assert docstrings_of(source) == []


def test_files_come_in_order_and_bad_ones_are_skipped(tmp_path):
    paths = []
    for number in range(40):
        path = tmp_path / f"m{number:02}.py"
        path.write_text(f'"""Document {number}."""\n' if number % 5 else "def f(:\n")
        paths.append(str(path))
    paths.insert(3, str(tmp_path / "absent.py"))
    read = list(docstrings.read_docstrings(paths))
    assert [path for path, _ in read] == paths
    assert [texts for _, texts in read] == [
        [f"Document {int(path[-5:-3])}."] if path[-5:-3].isdigit() and int(path[-5:-3]) % 5 else [] for path in paths
    ]


def test_no_warning_leaks_from_invalid_escapes(tmp_path, capfd):
    (tmp_path / "escapes.py").write_text('"""A \\d in a docstring."""\nassert (1, "x")\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((_, texts),) = docstrings.read_docstrings([str(tmp_path / "escapes.py")])
        assert texts == ["A \\d in a docstring."]
    assert capfd.readouterr() == ("", "")


def test_leaves_no_process_behind_when_reading_stops_early(tmp_path):
    (tmp_path / "m.py").write_text('"""' + "long " * 1_000_000 + '"""')
    processes = []
    popen = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *a, **k: processes.append(popen(*a, **k)) or processes[-1])
        reading = docstrings.read_docstrings([str(tmp_path / "m.py")] * 6)
        next(reading)
        reading.close()
    assert processes
    assert all(process.poll() is not None for process in processes)


def test_a_dead_process_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "m.py").write_text("")
    monkeypatch.setattr(docstrings.docstring_worker, "__file__", str(tmp_path / "absent.py"))
    with pytest.raises(CorpusError, match=r"the process that parses .*m\.py died"):
        list(docstrings.read_docstrings([str(tmp_path / "m.py")]))


def test_documents_of_a_named_package_carry_its_name_and_are_the_same_every_time():
    config = CorpusConfig(source="docstrings:yaml,six")
    first, second = list(read_documents(config)), list(read_documents(config))
    assert first == second
    assert {document.source for document in first} == {"yaml", "six"}
    assert any(document.text.startswith("Parse the first YAML document in a stream") for document in first)


def test_reading_does_not_import(tmp_path, monkeypatch):
    package = tmp_path / "danger_zone"
    package.mkdir()
    (package / "__init__.py").write_text('"""Never run me."""\nraise SystemExit(7)\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [d.text for d in read_documents(CorpusConfig(source="docstrings:danger_zone"))] == ["Never run me."]
    assert "danger_zone" not in sys.modules


def test_all_packages_are_grouped_into_shards_without_loss():
    shards = expand_sources(CorpusConfig(source="docstrings:"))
    assert [path for shard in shards for path in shard.paths] == list(docstrings.installed_packages().values())
    assert 1 < len(shards) < 100
    assert {"numpy", "six", "keras"} <= set(docstrings.installed_packages())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("numpi", r"did you mean docstrings:numpy\?"),
        ("PyYAML", r"did you mean docstrings:yaml\?"),
        ("keras-hub", r"did you mean docstrings:keras_hub\?"),
        ("numpy.linalg", r"did you mean docstrings:numpy\?"),
        ("qqzzxxww", "give names that can be imported"),
        ("sys", "give names that can be imported"),
    ],
)
def test_a_package_that_is_not_installed(name, hint):
    with pytest.raises(CorpusError, match=f"no package '{name}' is installed; .*{hint}"):
        expand_sources(CorpusConfig(source=f"docstrings:{name}"))


def test_a_module_file_is_a_package_too():
    (shard,) = expand_sources(CorpusConfig(source="docstrings:six"))
    assert shard == Shard("docstrings", (docstrings.installed_packages()["six"],), "text", None, None)
    assert {document.source for document in read_shard(shard)} == {"six"}
