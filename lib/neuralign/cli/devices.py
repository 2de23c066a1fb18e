"""The device that a command computes on: what --device says, else what a job of the workflow would get."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from neuralign.cli.configs import UsageError
from neuralign.workflow.running.gpus import devices, lease

VISIBLE = "CUDA_VISIBLE_DEVICES"


@contextmanager
def on_device(device: str | None) -> Iterator[None]:
    """Hold a slot of the GPU that `device` names during the block, and let torch see no other device.

    Args:
        device: `cpu`; `cuda`, any GPU that is free; `cuda:N`, one of those that are visible; None, a free GPU, or the
            CPU where there is none.

    Raises UsageError if torch cannot use the GPU.
    """
    before = os.environ.get(VISIBLE)
    try:
        select_device(device)
        with lease(0 if device == "cpu" else 1):
            if device not in (None, "cpu"):
                _demand_gpu(device)
            yield
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before


def select_device(device: str | None) -> None:
    """Leave only the GPUs visible that `device` allows, to this process and to those that it starts."""
    if device == "cpu":
        os.environ[VISIBLE] = ""
    elif device:
        visible, number = devices(), re.sub(r"\D", "", device)
        if not visible:
            raise UsageError(f"--device: found {device!r}, and no GPU is visible here; `cpu` is allowed")
        if number:
            if int(number) >= len(visible):
                allowed = ", ".join(["cpu", *(f"cuda:{i}" for i in range(len(visible)))])
                raise UsageError(f"--device: found {device!r}, and there is no such GPU (allowed: {allowed})")
            os.environ[VISIBLE] = visible[int(number)]


def demand_cpu(device: str | None) -> None:
    """Raise UsageError if `device` names a GPU, in a command that without data needs none."""
    if device not in (None, "cpu"):
        raise UsageError(f"--device: found {device!r}; without --data all is computed on the CPU")


def _demand_gpu(device: str | None) -> None:
    from neuralign.networks import setup

    if setup.device().type != "cuda":  # it raises UserError, with the reason, if the driver does not fit torch
        raise UsageError(f"--device: found {device!r}, and torch sees no GPU; `cpu` is allowed")
