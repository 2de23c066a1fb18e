"""Bars of commands that take long, from records that the library sends."""

import io
import logging
import re
import sys
import time

import pytest
from rich.console import Console

from neuralign.cli.interface.progress import StandardError, bars
from neuralign.common.logs.progress import log, report, track


def shown(block, *, is_terminal=True, seconds=0.0):
    """What the console is told while `block()` runs, without codes for colours and the cursor."""
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
    with bars(console, seconds):
        block()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_a_loop_has_a_bar_with_the_time_that_is_left():
    def loop():
        for _ in track(range(4), "hashing", 4):
            time.sleep(0.2)

    text = shown(loop)
    assert re.search(r"hashing .* 0:00:00 2 of 4, time left 0:00:0\d", text) and "4 of 4" in text


def test_a_step_of_unknown_length_has_the_time_that_it_takes():
    text = shown(lambda: (report("tracing", 0, 0), time.sleep(0.3)))
    assert re.search(r"tracing .* 0:00:00 ", text) and " of " not in text and "left" not in text


def test_a_bar_replaces_those_before_it():
    text = shown(lambda: (report("reading", 1, 2), report("writing", 0, 2), time.sleep(0.3)))
    assert "writing" in text and "reading" not in text.rpartition("writing")[2]


def test_short_commands_have_no_bar():
    assert "hashing" not in shown(lambda: list(track(range(4), "hashing", 4)), seconds=5)


def test_records_are_sent_before_each_item_and_at_the_end(caplog):
    with caplog.at_level(logging.DEBUG, "neuralign.progress"):
        assert list(track("ab", "copying", 2)) == ["a", "b"]
    assert [record.getMessage() for record in caplog.records] == [f"copying: {i} of 2" for i in range(3)]


def test_nothing_is_shown_and_no_handler_stays_where_standard_error_is_no_terminal(capsys):
    handlers, level = list(log.handlers), log.level
    with bars(seconds=0):
        assert log.handlers == handlers
        list(track(range(4), "hashing", 4))
    assert capsys.readouterr() == ("", "")
    shown(lambda: None)
    assert log.handlers == handlers and log.level == level and log.propagate


def test_messages_go_to_what_standard_error_is_at_the_time(monkeypatch):
    handler, later = StandardError(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    handler.emit(logging.makeLogRecord({"msg": "waiting"}))
    assert later.getvalue() == "waiting\n"


def test_an_interrupted_block_has_no_bars_left(capsys):
    with pytest.raises(KeyboardInterrupt), bars(Console(file=io.StringIO(), force_terminal=True), 0):
        raise KeyboardInterrupt
    assert not [handler for handler in log.handlers if type(handler).__name__ == "_Bars"]
