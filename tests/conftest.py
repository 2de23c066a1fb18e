"""Fixtures: the tiny problems of tiny.py; `model` runs a test once for every network plug-in for images."""

import os
import signal

# one thread for each process, as jobs have: two workers with two threads each take four times as long on two cores
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, and by the processes that tests start

import pytest
import tiny

from neuralign.datasets.images import Images
from neuralign.networks.model import Model

# what runs in the background of a script, or under nohup, ignores these, and so would all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
