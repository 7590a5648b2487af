"""The runs of a folder by what they reached, as ML Metadata knows it: also those whose report a later run has replaced."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_metadata import errors, metadata_store
from ml_metadata.proto import metadata_store_pb2

from gemma_tf_distill.errors import UserError
from gemma_tf_distill.report.metrics import metric_text
from gemma_tf_distill.report.numbers import MISSING, is_number
from tfx_pipeline.metadata_file import damaged_database, open_metadata
from tfx_pipeline.output_folder import OutputFolder
from tfx_pipeline.report import outputs_of

# Whose outputs have figures, in the order in which a figure of the same name counts more: that of the exported model at last.
_NODES = (("Distiller", "student"), ("Quantizer", "quantized_student"), ("Evaluator", "evaluation"))
_OF_TFX = ("is_external",)
_HIGHER_IS_BETTER = ("gap_closed", "top1_agreement", "top5_agreement", "tokens_per_second")
_STANDARD = ("heldout_nll", "perplexity_vs_teacher", "kl_to_teacher", "top1_agreement", "gap_closed")


@dataclasses.dataclass(frozen=True)
class RankedRun:
    """A run.

    Attributes:
      run: its name in ML Metadata.
      rank: from 1; none where the run has no such figure, or one that is no number.
      figures: by name, those of the exported model where it has them, else the trained student's.
      blessed: whether it held its gates; none where it did not come that far.
      pushed: the version's folder, if it pushed one.
    """

    run: str
    rank: int | None
    figures: Mapping[str, float | int | str]
    blessed: bool | None
    pushed: str | None


def rank_runs(folder: pathlib.Path, by: str = "heldout_nll") -> list[RankedRun]:
    """The runs of an output folder, the best first, and last those without the figure.

    Args:
      folder: of runs, such as outputs/demo.
      by: name of a figure; what is a share of agreement or a speed is better when higher, all else when lower.

    Raises:
      UserError: if it is no folder of runs, or no run has such a figure.
    """
    database = OutputFolder(folder).metadata
    if not database.is_file():
        raise UserError(f"{folder} holds no runs, it has no {database.name}: give the folder of runs, such as outputs/demo")
    store = open_metadata(database)
    try:
        return rank(store, by)
    except errors.StatusError as error:
        raise damaged_database(database) from error


def rank(store: metadata_store.MetadataStore, by: str) -> list[RankedRun]:
    """The runs of a database; see `rank_runs`."""
    nodes = {node.id: node.name.rpartition(".")[2] for node in store.get_contexts_by_type("node")}
    runs = [_run(store, context, nodes) for context in store.get_contexts_by_type("pipeline_run")]
    known = sorted({name for run in runs for name in run.figures})
    if by not in known:
        what = (
            f"the figures are {', '.join(known)}"
            if known
            else "none of them recorded any, since it did not come that far or is of an earlier version"
        )
        raise UserError(f"no run has the figure {by}: {what}")
    measured = [run for run in runs if is_number(run.figures.get(by))]
    measured.sort(key=lambda run: float(run.figures[by]), reverse=by.endswith(_HIGHER_IS_BETTER))
    ranked = [dataclasses.replace(run, rank=place) for place, run in enumerate(measured, 1)]
    return [*ranked, *(run for run in runs if not is_number(run.figures.get(by)))]


def render_ranking(runs: Sequence[RankedRun], by: str) -> str:
    """A table for a person."""
    columns = [by, *(name for name in _STANDARD if name != by and any(name in run.figures for run in runs))]
    lines = [["", "run", *columns, "blessed", "pushed"]]
    for run in runs:
        blessed = {True: "yes", False: "no", None: MISSING}[run.blessed]
        figures = [metric_text(name, run.figures.get(name)) for name in columns]
        version = pathlib.PurePath(run.pushed).name if run.pushed else MISSING
        lines.append([MISSING if run.rank is None else str(run.rank), run.run, *figures, blessed, version])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _run(store: metadata_store.MetadataStore, context: metadata_store_pb2.Context, nodes: Mapping[int, str]) -> RankedRun:
    outputs: dict[str, Mapping[str, metadata_store_pb2.Artifact]] = {}
    for execution in store.get_executions_by_context(context.id):
        names = [nodes[found.id] for found in store.get_contexts_by_execution(execution.id) if found.id in nodes]
        if execution.last_known_state in (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED):
            outputs |= {name: outputs_of(store, execution.id) for name in names}
    figures: dict[str, float | int | str] = {}
    for node, output in _NODES:
        if output in outputs.get(node, {}):
            figures |= _figures(outputs[node][output])
    blessing, pushed = (outputs.get(node, {}).get(name) for node, name in (("Evaluator", "blessing"), ("Pusher", "pushed_model")))
    return RankedRun(
        run=context.name,
        rank=None,
        figures=figures,
        blessed=None if blessing is None else blessing.custom_properties["blessed"].int_value == 1,
        pushed=None if pushed is None else pushed.custom_properties["pushed_destination"].string_value or None,
    )


def _figures(artifact: metadata_store_pb2.Artifact) -> dict[str, Any]:
    """Numbers, and what `set_figures` wrote for those that are none; TFX's own properties are no figures."""
    found: dict[str, Any] = {}
    for name, value in artifact.custom_properties.items():
        kind = value.WhichOneof("value")
        if name in _OF_TFX:
            continue
        if kind in ("int_value", "double_value") or (kind == "string_value" and value.string_value in ("nan", "inf", "-inf")):
            found[name] = getattr(value, kind)
    return found
