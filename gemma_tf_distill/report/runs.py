"""The figures of runs and pushed versions, read from their folders: `report.json` or `manifest.json`, and what parity measured.

Folders may have been moved since: what is inside one is found by its place in it. Needs no TensorFlow.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from gemma_tf_distill.errors import UserError
from gemma_tf_distill.monitoring.knowledge_transfer import gap_closed
from gemma_tf_distill.report.numbers import ratio

REPORT_FILE = "report.json"
MANIFEST_FILE = "manifest.json"
CONFIG_FILE = "config.json"
EXPORT_FILE = "export.json"
PUSHED_FOLDER = "pushed"

_FIGURES = (
    *("words", "heldout_tokens", "parameters", "teacher_nll", "nll", "control_nll", "ptq_nll", "float_nll"),
    *("kl", "top1_agreement", "bits_per_byte", "teacher_bits_per_byte"),
)

# The file that stands for a model: the one that phones run, then what is nearest to it.
_PREFERRED = ("tflite", "litertlm", "saved_model", "hugging_face")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileFigures:
    """An exported file.

    Attributes:
      format: `saved_model`, `tflite`, `litertlm` or `hugging_face`.
      bytes: all files of a folder together.
      decode_tokens_per_second: as parity measured it on the machine that exported; none where it did not.
    """

    format: str
    bytes: int
    decode_tokens_per_second: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFigures:
    """A run or a pushed version, as far as it is known. NLL is nats a token on the held-out split.

    Attributes:
      name: of its config.
      path: its folder.
      version: what was pushed; none for a run that pushed nothing.
      blessed: whether it held its gates.
      teacher: source of the teacher.
      words: size of the vocabulary, over which NLL is counted.
      heldout_tokens: how many NLL is averaged over.
      parameters: of the student.
      scheme: of its integers; none in float.
      teacher_nll: of the teacher.
      nll: of the exported model.
      control_nll: of the same student trained without the teacher, in float.
      ptq_nll: of the student rounded to `scheme` without training.
      float_nll: of the student before quantisation.
      kl: to the teacher, nats a token.
      top1_agreement: with the teacher, 0 to 1.
      bits_per_byte: of the held-out text, where it was measured.
      teacher_bits_per_byte: the teacher's.
      files: the exported ones.
    """

    name: str
    path: pathlib.Path
    version: str | None = None
    blessed: bool | None = None
    teacher: str = ""
    words: int | None = None
    heldout_tokens: int | None = None
    parameters: int | None = None
    scheme: str | None = None
    teacher_nll: float | None = None
    nll: float | None = None
    control_nll: float | None = None
    ptq_nll: float | None = None
    float_nll: float | None = None
    kl: float | None = None
    top1_agreement: float | None = None
    bits_per_byte: float | None = None
    teacher_bits_per_byte: float | None = None
    files: Sequence[FileFigures] = ()

    @property
    def perplexity_vs_teacher(self) -> float | None:
        """The student's perplexity over the teacher's."""
        return ratio(self.nll, self.teacher_nll)

    @property
    def gap_closed(self) -> float | None:
        """The share of the way from control to teacher that the student went."""
        return gap_closed(self.nll, self.control_nll, self.teacher_nll)

    @property
    def file(self) -> FileFigures | None:
        """The file that stands for the model: the `.tflite` where there is one."""
        by_format = {file.format: file for file in self.files}
        return next((by_format[name] for name in _PREFERRED if name in by_format), None)


def read_run(folder: pathlib.Path) -> RunFigures:
    """The figures of a run's folder or of a pushed version's.

    Raises:
      UserError: if the folder is neither, or its files are damaged.
    """
    if (folder / REPORT_FILE).is_file():
        report = read_object(folder / REPORT_FILE)
        config = read_object(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        return _checked(folder / REPORT_FILE, lambda: figures_of_report(folder, report, config, _parity_of(folder, report)))
    if (folder / MANIFEST_FILE).is_file():
        manifest = read_object(folder / MANIFEST_FILE)
        return _checked(folder / MANIFEST_FILE, lambda: _of_manifest(folder, manifest))
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: give that of a run (outputs/NAME) or of a pushed version (outputs/NAME/pushed/VERSION)"
        )
    if (folder / CONFIG_FILE).is_file():
        raise UserError(f"the run in {folder} has not finished, it has no {REPORT_FILE}: let gemma-distill run go on in it")
    raise UserError(
        f"{folder} is no folder of a run, which has {CONFIG_FILE} and {REPORT_FILE}, nor of a pushed version, which has {MANIFEST_FILE}: "
        "give one of those"
    )


def sibling_runs(folder: pathlib.Path) -> list[RunFigures]:
    """The other finished runs in the same output root, by name of their folders; what can't be read is left out."""
    found = []
    for path in sorted(folder.absolute().parent.iterdir()):
        if path.name != folder.absolute().name and (path / REPORT_FILE).is_file():
            try:
                found.append(read_run(path))
            except UserError:  # Some other program's report.json is none of ours.
                continue
    return found


def earlier_pushes(folder: pathlib.Path, version: str | None) -> list[RunFigures]:
    """Versions that were pushed before `version` from a run's folder, the latest last; all of them where it is none."""
    pushed = folder / PUSHED_FOLDER
    names = [path.name for path in pushed.iterdir() if path.name.isdecimal()] if pushed.is_dir() else []
    before = sorted((name for name in names if version is None or int(name) < int(version)), key=int)
    return [read_run(pushed / name) for name in before if (pushed / name / MANIFEST_FILE).is_file()]


def previous_push(run: RunFigures) -> RunFigures | None:
    """What was pushed before a run or version from the same folder; none where it was the first."""
    folder = run.path.parent.parent if run.path.parent.name == PUSHED_FOLDER else run.path
    return next(reversed(earlier_pushes(folder, run.version)), None)


def figures_of_report(
    folder: pathlib.Path, report: Mapping[str, Any], config: Mapping[str, Any], parity: Sequence[Mapping[str, Any]]
) -> RunFigures:
    """The figures of a run.

    Args:
      folder: of the run.
      report: the content of report.json.
      config: the whole config; empty where it is not there.
      parity: `FileParity`'s attributes of each file.
    """
    teacher, student = report["teacher"], report["student"]
    pushed = report.get("pushed")
    return RunFigures(
        name=str(config.get("name") or folder.name),
        path=folder,
        version=pathlib.PurePath(pushed).name if pushed else None,
        blessed=bool(report["blessed"]),
        teacher=str(teacher["source"]),
        words=student.get("vocabulary"),
        heldout_tokens=report.get("tokens", {}).get("heldout"),
        parameters=student.get("parameters"),
        scheme=(student.get("quantization") or {}).get("scheme"),
        teacher_nll=teacher.get("heldout_nll"),
        nll=student.get("heldout_nll"),
        control_nll=student.get("heldout_nll_control"),
        ptq_nll=student.get("heldout_nll_ptq"),
        float_nll=student.get("heldout_nll_float"),
        kl=student.get("kl_to_teacher"),
        top1_agreement=student.get("top1_agreement"),
        bits_per_byte=student.get("bits_per_byte"),
        teacher_bits_per_byte=teacher.get("bits_per_byte"),
        files=_files(report["artifacts"], parity),
    )


def _of_manifest(folder: pathlib.Path, manifest: Mapping[str, Any]) -> RunFigures:
    metrics = manifest.get("metrics") or {}
    evaluation, training = metrics.get("evaluation") or {}, metrics.get("training") or {}
    return RunFigures(
        name=manifest["config"]["name"],
        path=folder,
        version=str(manifest["version"]),
        # Only a blessed model is pushed; what gemma-distill export writes was never judged.
        blessed=True if evaluation else None,
        teacher=manifest["parents"]["teacher"],
        words=training.get("vocabulary"),
        heldout_tokens=training.get("tokens", {}).get("heldout"),
        parameters=training.get("parameters"),
        scheme=(training.get("quantization") or {}).get("scheme"),
        teacher_nll=evaluation.get("teacher_heldout_nll"),
        nll=evaluation.get("heldout_nll"),
        control_nll=training.get("heldout_nll_control"),
        ptq_nll=training.get("heldout_nll_ptq"),
        float_nll=training.get("heldout_nll_float"),
        kl=evaluation.get("kl_to_teacher"),
        top1_agreement=evaluation.get("top1_agreement"),
        bits_per_byte=evaluation.get("bits_per_byte"),
        teacher_bits_per_byte=evaluation.get("teacher_bits_per_byte"),
        files=_files(manifest["files"], (manifest.get("parity") or {}).get("files", ())),
    )


def _files(records: Sequence[Mapping[str, Any]], parity: Sequence[Mapping[str, Any]]) -> list[FileFigures]:
    sizes: dict[str, int] = {}
    for record in records:
        sizes[record["format"]] = sizes.get(record["format"], 0) + record["bytes"]
    speeds = {file["format"]: file.get("decode_tokens_per_second") for file in parity}
    return [FileFigures(format=name, bytes=sizes[name], decode_tokens_per_second=speeds.get(name)) for name in _PREFERRED if name in sizes]


def _parity_of(folder: pathlib.Path, report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What parity measured of a run's files: beside the pushed ones, or beside those that the Exporter wrote."""
    if report.get("pushed"):
        manifest = folder / PUSHED_FOLDER / pathlib.PurePath(report["pushed"]).name / MANIFEST_FILE
        return (read_object(manifest).get("parity") or {}).get("files", ()) if manifest.is_file() else ()
    for record in report.get("artifacts", ()):
        parts = pathlib.PurePath(record["path"]).parts
        for end in range(len(parts) - 1, 2, -1):
            if parts[end - 3 : end - 1] == ("Exporter", "model"):
                export = folder / "pipeline" / "Exporter" / "model" / parts[end - 1] / EXPORT_FILE
                return (read_object(export).get("parity") or {}).get("files", ()) if export.is_file() else ()
    return ()


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file of a run.

    Raises:
      UserError: if it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: run the config again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; run the config again")
    return content


def _checked(path: pathlib.Path, make: Any) -> RunFigures:
    try:
        return _with_figures(make())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not of gemma-distill, or damaged ({type(error).__name__}: {error}): give the folder of a run"
        ) from error


def _with_figures(run: RunFigures) -> RunFigures:
    """The same; what is no figure where one has to be raises ValueError. NaN and infinity are figures: a training may have come to them."""
    for name in _FIGURES:
        value = getattr(run, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{name} is {value!r}")
    if run.version is not None and not run.version.isdecimal():
        raise ValueError(f"the version is {run.version!r}")
    return run
