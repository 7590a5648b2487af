"""Runs the pipeline in this process, on LocalDagRunner or BeamDagRunner, with ML Metadata in SQLite.

`gemma-distill run` starts it as a process of its own:

    python -P -m tfx_pipeline.local_runner --config-json '{"name": …}' --output DIR [--runner local|beam] [--until COMPONENT]

TensorFlow and TFX are imported inside functions: it takes twenty seconds, and a mistake should be told before.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from components.failures import user_errors_of_workers
from gemma_tf_distill.config import Config, config_from_dict
from gemma_tf_distill.errors import UserError, refused_by_system
from gemma_tf_distill.monitoring.progress import emit
from tfx_pipeline.exit_codes import EXIT_FAILURE, EXIT_NOT_BLESSED, EXIT_OK, EXIT_USER_ERROR
from tfx_pipeline.node_events import NodeEvents
from tfx_pipeline.node_memory import NodeMemory
from tfx_pipeline.output_folder import OutputFolder, write_whole
from tfx_pipeline.stops import STOPS, check_runner

if TYPE_CHECKING:
    from tfx_pipeline.report import Outcome, Stopped

RUNNERS = ("local", "beam")


def run(config: Config, output: pathlib.Path, runner: str = "local", until: str | None = None) -> "Outcome | Stopped":
    """Runs the pipeline of a config, or what changed since the last run in the same folder, and writes `report.json` and `report.html`.

    Args:
      config: the experiment.
      output: the folder of the run (see `tfx_pipeline.output_folder`).
      runner: `local` (one node after the other) or `beam` (the nodes are steps of a Beam pipeline).
      until: the component to stop after (`stops.STOPS`), without a report; none: to the end.

    Raises:
      UserError: if the strategy needs other processes, or the folder, or something that the config names, can't be used; also when only a
        component finds it.
    """
    folder = OutputFolder(output)
    check_runner(config, until)
    folder.check(config)
    emit("stage", stage="looking at teacher and corpus")
    from tfx_pipeline.checks import check_inputs

    if config.strategy.name != "one_device" and until != STOPS[0]:
        from gemma_tf_distill.training.strategies import make_strategy

        # The devices that training will find, before anything runs on them: a CPU is only split in the beginning.
        make_strategy(config.strategy)
    check_inputs(config)
    emit("stage", stage="starting TFX")
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_config(config)

    from absl import logging as absl_logging
    from ml_metadata import metadata_store
    from tfx.orchestration import metadata

    from tfx_pipeline.pipeline import create_pipeline
    from tfx_pipeline.report import create_outcome, create_stopped, latest_run
    from tfx_pipeline.report_page import write_page

    connection = metadata.sqlite_metadata_connection_config(str(folder.metadata))
    pipeline = create_pipeline(config, str(folder.pipeline_root), connection, str(folder.pushed), until=until)
    nodes = [component.id for component in pipeline.components]
    emit("pipeline", nodes=nodes)
    memory = NodeMemory()
    events = NodeEvents(memory)
    absl_logging.set_verbosity(absl_logging.INFO)
    absl_logging.get_absl_logger().addHandler(events)
    try:
        with memory.sampled(), _beam_without_downloads():
            _runner(runner).run(pipeline)
    except Exception as error:
        events.failed()
        if user_error := _user_error(error):
            raise user_error from error
        raise
    finally:
        absl_logging.get_absl_logger().removeHandler(events)
    found = latest_run(metadata_store.MetadataStore(connection), config.name, nodes)
    if until is not None:
        return create_stopped(until, found)
    emit("stage", stage="writing the report")
    outcome = create_outcome(config, found)
    write_whole(folder.report, json.dumps(outcome.report, indent=2) + "\n")
    write_page(folder, config, found, outcome)
    return outcome


def _runner(name: str):  # type: ignore[no-untyped-def]  # TFX's runners are not typed.
    from tfx.orchestration.beam.beam_dag_runner import BeamDagRunner
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner

    return {"local": LocalDagRunner, "beam": BeamDagRunner}[name]()


@contextlib.contextmanager
def _beam_without_downloads() -> Iterator[None]:
    """Makes FnApiRunner Beam's default for a while.

    BeamDagRunner takes no options for the pipeline that it makes of the nodes, and Beam's DirectRunner would download Prism for it.
    """
    from apache_beam.options.pipeline_options import StandardOptions

    former = StandardOptions.DEFAULT_RUNNER
    StandardOptions.DEFAULT_RUNNER = "FnApiRunner"
    try:
        yield
    finally:
        StandardOptions.DEFAULT_RUNNER = former


def _user_error(error: BaseException) -> UserError | None:
    """The UserError that an error of a runner was made of, if there is one."""
    link: BaseException | None = error
    while link is not None:
        try:
            with user_errors_of_workers():
                raise link if isinstance(link, UserError) else _Words(str(link))
        except UserError as found:
            return found
        except _Words:
            link = link.__cause__ or link.__context__
    return None


class _Words(Exception):
    """Takes the text of an error through `user_errors_of_workers`."""


def _exit_with_parent() -> None:
    """Ends this process and all that it started when its standard input is closed: whoever started it is gone."""

    def watch() -> None:
        # Not sys.stdin: its lock, held by a thread, makes Python abort at the end.
        while os.read(0, 1024):
            continue
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """The process that `gemma-distill run` starts; see the module's text.

    What goes wrong is told as an `error` event (`kind`: `user` or `failure`; `message`: one line), what a run came to as an
    `outcome` or a `stopped` event.

    Returns:
      One of `tfx_pipeline.exit_codes`.
    """
    parser = argparse.ArgumentParser(prog="python -m tfx_pipeline.local_runner")
    parser.add_argument("--config-json", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--runner", choices=RUNNERS, default="local")
    parser.add_argument("--until", choices=STOPS)
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input is closed; needs a session of its own")
    options = parser.parse_args(arguments)
    if options.exit_with_parent:
        _exit_with_parent()
    try:
        outcome = run(config_from_dict(json.loads(options.config_json)), options.output, options.runner, options.until)
    except UserError as error:
        emit("error", kind="user", message=" ".join(str(error).split()))
        logging.exception("The run can't go on")
        return EXIT_USER_ERROR
    # The boundary of the process: whatever it is goes to the log, and its last line to the person.
    except Exception as error:
        if refused := refused_by_system(error):
            emit("error", kind="user", message=str(refused))
            logging.exception("The run can't go on")
            return EXIT_USER_ERROR
        emit("error", kind="failure", message=_last_line(error))
        logging.exception("The run failed")
        return EXIT_FAILURE
    report = getattr(outcome, "report", None)
    emit("stopped" if report is None else "outcome", **dataclasses.asdict(outcome))
    return EXIT_OK if report is None or report["blessed"] else EXIT_NOT_BLESSED


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
