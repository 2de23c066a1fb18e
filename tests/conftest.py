"""Fixtures: the tiny problems of tiny.py; `model` runs a test once for every network plug-in for images."""

import os
import signal
import sys
from collections.abc import Iterator

# one thread for each process, as jobs have: two workers with two threads each take four times as long on two cores
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, and by the processes that tests start

import pytest
import tiny

from neuralign.datasets.images import Images
from neuralign.networks.model import Model

# what runs in the background of a script, or under nohup, ignores these, and so would all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class FailuresAtOnce:
    """Names a test as soon as it has failed: the list at the end is lost where a later test hangs."""

    def __init__(self, terminal: pytest.TerminalReporter):
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.write_line(f"\nfailed: {report.nodeid} ({report.when})")


def pytest_sessionstart(session: pytest.Session) -> None:
    plugins = session.config.pluginmanager
    if terminal := plugins.get_plugin("terminalreporter"):  # the processes of xdist have none
        plugins.register(FailuresAtOnce(terminal))


@pytest.fixture(autouse=True)
def same_path() -> Iterator[None]:
    """What a test imports from a folder of its own is not found by the tests after it."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(params=tiny.NETWORKS_OF_IMAGES)
def model(request: pytest.FixtureRequest) -> Model:
    """A small model of every network plug-in for images in turn."""
    return tiny.small(request.param)


@pytest.fixture
def tinyten() -> Model:
    return tiny.small("tinyten")


@pytest.fixture
def images() -> Images:
    """12 pictures of 16x16 in 5 classes."""
    return tiny.pictures()


@pytest.fixture(params=tiny.CONVOLUTIONAL)
def convolutional(request: pytest.FixtureRequest) -> Model:
    """A small model of every network plug-in that is made of convolutions in turn."""
    return tiny.small(request.param)
