import pickle

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.failures import user_errors_of_workers
from gemma_tf_distill.errors import ConfigError, CorpusError, MissingExtraError, UserError, WeightsError


def run(error_type, *arguments):
    def fail(_):
        raise error_type(*arguments)

    with user_errors_of_workers(), beam.Pipeline(runner=FnApiRunner()) as pipeline:
        pipeline | beam.Create([1]) | "Fails" >> beam.Map(fail)


@pytest.mark.parametrize("error_type", [CorpusError, ConfigError, WeightsError, UserError])
def test_an_error_comes_back_as_it_was_raised(error_type):
    with pytest.raises(UserError) as caught:
        run(error_type, "a file: 'ü' is [odd]")
    assert type(caught.value) is error_type
    assert str(caught.value) == "a file: 'ü' is [odd]"


def test_an_error_that_beam_cannot_build_anew_keeps_its_line():
    arguments = ("thing", "demo", "This")
    with pytest.raises(UserError) as caught:
        run(MissingExtraError, *arguments)
    assert str(caught.value) == str(MissingExtraError(*arguments))


def test_an_error_crosses_between_processes():
    error = MissingExtraError("thing", "demo", "This")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_error_out_of_another_process_is_found_in_its_traceback():
    # As the multi-process and remote runners hand it on.
    text = (
        'Traceback (most recent call last):\n  File "x.py", line 1, in process\n    raise CorpusError(message)\n'
        "gemma_tf_distill.errors.CorpusError: a.txt is not text\n\nDuring handling of the above exception, another exception occurred:\n\n"
        "gemma_tf_distill.errors.CorpusError: a.txt is not text [while running 'Read-ptransform-12']\n"
    )
    with pytest.raises(CorpusError, match=r"^a\.txt is not text$"), user_errors_of_workers():
        raise RuntimeError(text)


def test_other_errors_are_left_alone():
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError, "1 / 0")
    with pytest.raises(RuntimeError, match="no such worker"), user_errors_of_workers():
        raise RuntimeError("no such worker")
