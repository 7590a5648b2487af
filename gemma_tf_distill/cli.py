"""The command `gemma-distill`. Importing it imports neither TensorFlow nor TFX."""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

from gemma_tf_distill.config import Config, config_with, load_config, recipes
from gemma_tf_distill.errors import ConfigError, UserError, refused_by_system
from gemma_tf_distill.monitoring.display import JSON, QUIET, STYLES, TEXT, displayed, make_display
from gemma_tf_distill.monitoring.log_entries import LogEntries
from gemma_tf_distill.monitoring.progress import LOG_VARIABLE, doing, emit, event_now
from gemma_tf_distill.monitoring.run_report import render_outcome, render_stop
from gemma_tf_distill.report.compare import compare
from gemma_tf_distill.report.runs import read_run
from gemma_tf_distill.xla.attached import skip_metadata_without_tpu
from tfx_pipeline.exit_codes import EXIT_BROKEN_PIPE, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_NOT_BLESSED, EXIT_OK, EXIT_USER_ERROR
from tfx_pipeline.launcher import RunFailedError, launch
from tfx_pipeline.stops import STOPS, check_runner

if TYPE_CHECKING:
    from gemma_tf_distill.export.generation import Speed

_EXIT_CODES = """exit codes:
  0    done; for run: the model was blessed and pushed, or the run stopped where --until said
  1    failed; the message names the log (doctor: the demo can't run here)
  2    something that was given is wrong; nothing was left behind
  3    run: the model did not pass the gates, nothing was pushed; parity: a file is not what the student is;
       preflight: it does not fit the TPU
  130  interrupted; run goes on from there when it is called again
  141  nobody read what was printed any more; run goes on as after 130
"""


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as everything else does: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({self.prog} --help says more)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gemma-distill",
        description="Distils a small model of your own from a Gemma 3 teacher.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser(
        "run",
        help="distil a student, judge it, and push it if it is good enough",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "config", nargs="?", default="demo", metavar="CONFIG", help=f"a YAML file, or a recipe: {', '.join(recipes())} (default: demo)"
    )
    run.add_argument("--runner", choices=("local", "beam", "vertex"), default="local", help="where it runs (default: local)")
    run.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides", help="change a config key")
    run.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="PATH",
        help="folder of the run (default: outputs/NAME); with vertex the job file (NAME-job.json)",
    )
    _add_log(run)
    run.add_argument("--until", choices=STOPS, help="stop after this component; with the next call the run goes on")
    run.set_defaults(function=_run)
    vertex = run.add_argument_group("with --runner vertex")
    vertex.add_argument("--dry-run", action="store_true", help="only write the job file")
    vertex.add_argument("--image", help="container image that was built from this repository's Dockerfile")
    vertex.add_argument("--pipeline-root", metavar="gs://…", help="folder of artifacts and pushed models")
    vertex.add_argument("--project", help="Google Cloud project")
    vertex.add_argument("--region", help="Google Cloud region")
    vertex.add_argument("--service-account", metavar="EMAIL", help="whom the job runs as")

    workers = commands.add_parser(
        "workers", help="train on scored windows that were copied here: on a TPU VM, or on every host of a cluster; needs no TFX"
    )
    workers.add_argument("config", metavar="CONFIG", help=f"a YAML file, or a recipe: {', '.join(recipes())}")
    workers.add_argument("--examples", required=True, metavar="DIR", help="what run --until TeacherScorer names as examples")
    workers.add_argument("--tokenizer", required=True, metavar="DIR", help="what it names as tokenizer")
    workers.add_argument("--output", required=True, metavar="DIR", help="where the student goes; shared by all hosts")
    workers.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides", help="change a config key")
    _add_log(workers)
    workers.set_defaults(function=_workers)

    generate = commands.add_parser("generate", help="complete a prompt with an exported model")
    generate.add_argument(
        "model", metavar="MODEL", help="a SavedModel or Hugging Face folder, a .tflite or .litertlm file, or the folder of a pushed version"
    )
    generate.add_argument("prompt", metavar="PROMPT")
    generate.add_argument("--max-new-tokens", type=_at_least_one, default=48, metavar="N", help="tokens to add at the most (default: 48)")
    _add_log(generate)
    generate.set_defaults(function=_generate)

    export = commands.add_parser("export", help="write a Gemma 3 as it is in every format, without distilling")
    export.add_argument("source", metavar="SOURCE", help="gguf:package, gguf:PATH, preset:NAME or a folder saved by KerasHub")
    export.add_argument("folder", metavar="FOLDER", help="where the files go")
    export.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides", help="change a config key")
    _add_log(export)
    export.set_defaults(function=_export)

    parity = commands.add_parser(
        "parity",
        help="run every file of a version in its own runtime and compare it with the student",
        epilog="exit code 3: a file is not what the student is",
    )
    parity.add_argument("folder", metavar="DIR", help="the folder of a pushed version, or of gemma-distill export")
    parity.add_argument("--json", action="store_true", dest="as_json", help="as one JSON object")
    parity.add_argument("--student", metavar="SOURCE", help="what was exported, where the manifest's own is no longer there")
    parity.add_argument("--text", metavar="SOURCE", help="on what to compare, as corpus.source (default: what the pipeline held out)")
    parity.add_argument("--tokens", type=_at_least_one, metavar="N", help="how much of it (default: export.parity_tokens)")
    _add_log(parity)
    parity.set_defaults(function=_parity)

    compare = commands.add_parser("compare", help="runs and pushed versions beside their teachers, controls and earlier pushes")
    compare.add_argument("folders", nargs="+", type=pathlib.Path, metavar="DIR", help="the folder of a run, or of a pushed version")
    compare.add_argument("--json", action="store_true", dest="as_json", help="as one JSON object")
    compare.set_defaults(function=_compare)

    runs = commands.add_parser("runs", help="rank the runs of a folder, also earlier ones, by what ML Metadata knows of them")
    runs.add_argument("folder", type=pathlib.Path, metavar="DIR", help="the folder of runs, such as outputs/demo")
    runs.add_argument("--by", default="heldout_nll", metavar="FIGURE", help="such as kl_to_teacher (default: heldout_nll)")
    runs.add_argument("--json", action="store_true", dest="as_json", help="as a JSON list")
    runs.set_defaults(function=_runs)

    report = commands.add_parser("report", help="write report.html of a finished run again")
    report.add_argument("folder", type=pathlib.Path, metavar="DIR", help="the folder of a run")
    report.set_defaults(function=_report)

    preflight = commands.add_parser(
        "preflight",
        help="compile the training step and the scorer for a TPU that is not there: do they fit, how fast could they be",
        epilog="exit code 3: it does not fit",
    )
    preflight.add_argument("config", metavar="CONFIG", help=f"a YAML file, or a recipe: {', '.join(recipes())}")
    preflight.add_argument("--tpu", required=True, metavar="TOPOLOGY", help="generation and grid of chips, such as v5e:2x4")
    preflight.add_argument(
        "--words", type=_at_least_one, metavar="N", help="of the student's vocabulary, where the corpus decides (default: the teacher's)"
    )
    preflight.add_argument(
        "--full-effort",
        action="store_true",
        help="compile as the TPU's run does, twice as long (default: only where it is close; bounds by memory are up to a fifth too high)",
    )
    preflight.add_argument(
        "--largest-batch",
        action="store_true",
        dest="largest",
        help="propose the largest training.batch_size that fits (up to six compilations more)",
    )
    preflight.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides", help="change a config key")
    preflight.add_argument("--json", action="store_true", dest="as_json", help="as one JSON object")
    _add_log(preflight)
    preflight.set_defaults(function=_preflight)

    doctor = commands.add_parser("doctor", help="show versions, devices, and which weights are in reach")
    doctor.add_argument("--json", action="store_true", dest="as_json", help="as one JSON object")
    doctor.set_defaults(function=_doctor)
    return parser


def _add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log",
        choices=STYLES,
        help="how progress is told: text, json (JSON lines as Cloud Logging reads them) or quiet (warnings alone) "
        f"(default: {LOG_VARIABLE} of the environment, else text)",
    )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    check_runner(config, options.until)
    if options.runner == "vertex":
        if options.until:
            raise ConfigError("--until needs --runner local or beam: a job on Vertex AI runs to its end")
        return _run_vertex(config, options)
    for name in ("dry_run", "image", "pipeline_root", "project", "region", "service_account"):
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('_', '-')} needs --runner vertex")
    output = options.output or pathlib.Path("outputs") / config.name
    as_json = options.log == JSON
    outcome = launch(config, output, options.runner, make_display(options.log, sys.stdout, sys.stderr), options.until)
    if outcome["event"] == "stopped":
        if not as_json:
            command = ["gemma-distill", "workers", options.config, *(part for text in options.overrides for part in ("--set", text))]
            _print_result(options, render_stop(outcome, command))
        return EXIT_OK
    if not as_json:
        result = render_outcome(outcome["report"], outcome["failures"], outcome["samples"])
        _print_result(options, f"{result}\n\nreport   {output / 'report.html'}")
    return EXIT_OK if outcome["report"]["blessed"] else EXIT_NOT_BLESSED


def _print_result(options: argparse.Namespace, result: str) -> None:
    """Prints what a run came to, apart from the progress before it, where there is some."""
    print(result if options.log == QUIET else f"\n{result}")


def _workers(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    # XLA reads its flags when it compiles first.
    os.environ.update(config.xla.environment(os.environ))
    with _quiet_stderr() as terminal, displayed(make_display(options.log, sys.stdout, terminal)):
        from components.distiller.workers import train_on_folders
        from gemma_tf_distill.xla.optimizer import check_flags

        # Where a TPU is driven, TensorFlow compiles nothing that could be tried on a CPU.
        if config.strategy.name != "tpu":
            check_flags(config.xla)
        emit("stage", stage=f"training on {config.strategy.name}")
        metrics = train_on_folders(config, options.examples, options.tokenizer, options.output)
        # Where this host is not the chief, another one tells.
        result = metrics and (
            f"held-out NLL {metrics['heldout_nll']:.3f} nats a token, before training {metrics['heldout_nll_initial']:.3f}; "
            f"gemma-distill export {os.path.join(options.output, 'student')} FOLDER writes its files"
        )
        if result and options.log == JSON:
            emit("trained", message=result, metrics=metrics)
    if result and options.log != JSON:
        _print_result(options, result)
    return EXIT_OK


def _run_vertex(config: Config, options: argparse.Namespace) -> int:
    command = [sys.executable, "-P", "-m", "tfx_pipeline.kubeflow_v2_runner", "--config-json", config.to_json()]
    command += ["--output", str(options.output or f"{config.name}-job.json")]
    for name in ("image", "pipeline_root", "project", "region", "service_account"):
        if getattr(options, name):
            command += [f"--{name.replace('_', '-')}", getattr(options, name)]
    if options.dry_run:
        command.append("--dry-run")
    # What TFX and TensorFlow say while they are imported is of no use here.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    display = make_display(JSON, sys.stdout, sys.stderr)
    for line in done.stdout.splitlines():
        if options.log == JSON:
            display.show(event_now("job", message=line))
        else:
            print(line)
    if done.returncode == EXIT_OK:
        return EXIT_OK
    lines = done.stderr.strip().splitlines() or [f"the compiler ended with exit code {done.returncode}"]
    if done.returncode == EXIT_USER_ERROR:
        raise UserError(lines[-1])
    raise RunFailedError(lines[-1])


def _generate(options: argparse.Namespace) -> int:
    with _quiet_stderr() as terminal:
        with displayed(make_display(options.log, terminal, terminal)):
            doing(f"loading {options.model}")
            from gemma_tf_distill.export.generation import clean_prompt, load_generator

            completion = load_generator(options.model).generate(options.prompt, options.max_new_tokens)
            doing("reading the prompt")
            first = next(completion, "")
        sys.stdout.write(clean_prompt(options.prompt) + first)
        sys.stdout.flush()
        for piece in completion:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        sys.stdout.flush()
    print(_speed(completion.speed), file=sys.stderr)
    return EXIT_OK


def _speed(speed: "Speed") -> str:
    decode = speed.decode_tokens_per_second
    first = f", the first in {speed.prompt_seconds:.2f} s" if speed.new_tokens else ""
    rate = f", {decode:.1f} tokens/s" if decode else ""
    return f"{speed.new_tokens} tokens after {speed.prompt_tokens} of the prompt{first}{rate}"


def _export(options: argparse.Namespace) -> int:
    config = config_with({"name": "exported", "teacher": {"source": options.source}}, options.overrides)
    # With oneDNN TensorFlow keeps all memory that it ever freed, a third of what an export takes, and nothing here multiplies matrices.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with _quiet_stderr() as terminal, displayed(make_display(options.log, terminal, terminal)):
        from gemma_tf_distill.export.standalone import export_model

        export_model(config, options.folder)
    print(f"exported to {options.folder}; gemma-distill parity {options.folder} compares each file with the model")
    return EXIT_OK


def _parity(options: argparse.Namespace) -> int:
    with _quiet_stderr() as terminal, displayed(make_display(options.log, terminal, terminal)):
        from gemma_tf_distill.export.parity.version import parity_of_version

        report = parity_of_version(options.folder, student=options.student, text=options.text, tokens=options.tokens)
    print(json.dumps(report.to_dict(), indent=2) if options.as_json else report.render())
    return EXIT_OK if report.passed else EXIT_NOT_BLESSED


def _compare(options: argparse.Namespace) -> int:
    comparison = compare([read_run(folder) for folder in options.folders])
    print(json.dumps(comparison.to_dict(), indent=2) if options.as_json else comparison.render())
    return EXIT_OK


def _runs(options: argparse.Namespace) -> int:
    with _quiet_stderr():
        from tfx_pipeline.run_ranking import rank_runs, render_ranking

        ranked = rank_runs(options.folder, options.by)
    print(json.dumps([dataclasses.asdict(run) for run in ranked], indent=2) if options.as_json else render_ranking(ranked, options.by))
    return EXIT_OK


def _report(options: argparse.Namespace) -> int:
    with _quiet_stderr():
        from tfx_pipeline.report_page import rebuild_page

        page = rebuild_page(options.folder)
    print(f"report   {page}")
    return EXIT_OK


def _preflight(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    with _quiet_stderr() as terminal, displayed(make_display(options.log, terminal, terminal)):
        from gemma_tf_distill.preflight.preflight import preflight
        from gemma_tf_distill.preflight.text import render

        def tell(line: str) -> None:
            emit("stage", stage=line)

        report = preflight(config, options.tpu, words=options.words, largest=options.largest, full_effort=options.full_effort, tell=tell)
    print(json.dumps(report.to_dict(), indent=2) if options.as_json else render(report))
    return EXIT_OK if report.fits else EXIT_NOT_BLESSED


def _doctor(options: argparse.Namespace) -> int:
    from gemma_tf_distill.doctor import main as doctor

    return doctor(as_json=options.as_json)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[TextIO]:
    """Keeps back what C++ libraries write to standard error, and writes it only where the block ends with an unexpected error.

    Yields:
      The real one.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept, open(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as real:
        os.dup2(kept.fileno(), 2)
        try:
            yield real
        except (UserError, KeyboardInterrupt, BrokenPipeError):
            raise
        except BaseException:
            kept.seek(0)
            real.write(kept.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(real.fileno(), 2)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; mistakes of the user's making are told in one line on standard error."""
    # So that ending this process also ends what it started.
    signal.signal(signal.SIGTERM, _terminate)
    skip_metadata_without_tpu()
    # The display tells what a process without one would print.
    style = os.environ.pop(LOG_VARIABLE, TEXT)
    try:
        if style not in STYLES:
            raise ConfigError(f"{LOG_VARIABLE} is {style!r} in the environment: set it to one of {', '.join(STYLES)}")
        options = _parser().parse_args(argv)
        if "log" in options:
            style = options.log = options.log or style
        function: Callable[[argparse.Namespace], int] = options.function
        code = function(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _tell(style, error, EXIT_USER_ERROR)
    except RunFailedError as error:
        return _tell(style, error, EXIT_FAILURE)
    except BrokenPipeError:
        # Python writes what is left when it ends, and would fail again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if refused := refused_by_system(error):
            return _tell(style, refused, EXIT_USER_ERROR)
        raise
    except KeyboardInterrupt:
        message = "gemma-distill: interrupted; run goes on from there when it is called again"
        sys.stderr.write(_as_entry("warning", message=message) if style == JSON else f"\n{message}\n")
        return EXIT_INTERRUPTED


def _tell(style: str, error: Exception, code: int) -> int:
    message = f"gemma-distill: error: {' '.join(str(error).split())}"
    kind = "user" if code == EXIT_USER_ERROR else "failure"
    sys.stderr.write(_as_entry("error", kind=kind, message=message) if style == JSON else f"{message}\n")
    return code


def _as_entry(event: str, **fields: str) -> str:
    return LogEntries().line(event_now(event, **fields))


if __name__ == "__main__":
    sys.exit(main())
