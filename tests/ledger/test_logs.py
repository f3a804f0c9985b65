"""What a log record says besides its message."""

from __future__ import annotations

import logging

from ledger.logs import LineHandler, listening, log_context


def heard(write):
    records = []
    with listening(LineHandler(lambda r: records.append((r.generation, r.role, r.getMessage())))):
        write(logging.getLogger("trainers.somewhere"))
    return records


def test_a_record_says_its_generation_and_role():
    def write(logger):
        with log_context(generation=2):
            logger.info("collect")
            with log_context(role="logical"):
                logger.info("step %d", 3)
        logger.info("done")

    assert heard(write) == [(2, None, "collect"), (2, "logical", "step 3"), (None, None, "done")]


def test_debug_records_and_other_libraries_are_not_heard():
    def write(logger):
        logger.debug("detail")
        logging.getLogger("ray").warning("noise")

    assert heard(write) == []


def test_nothing_is_heard_after_the_block():
    records = []
    with listening(LineHandler(lambda r: records.append(r.getMessage()))):
        pass
    logging.getLogger("cluster").info("late")
    assert records == []


def test_a_handler_that_fails_does_not_stop_the_work(capsys):
    def fail(record):
        raise OSError("the pipe is gone")

    with listening(LineHandler(fail)):
        logging.getLogger("cluster").info("on we go")
    assert "the pipe is gone" in capsys.readouterr().err
