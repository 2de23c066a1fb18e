"""The file in a results folder that keeps the calibration of a machine for later plans."""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neuralign.common.files import atomic

CALIBRATION = ".calibration.json"
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]

log = logging.getLogger(__name__)


class NetworkCosts(BaseModel):
    """The counts of a network, and its seconds per image in each kind of pass."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Seconds]

    parameters: Count
    buffers: Count
    activations: Count


class Calibration(BaseModel):
    """What `calibration.calibrate` returns."""

    device: str
    networks: dict[str, NetworkCosts]


def read_calibration(results: Path) -> dict[str, Any]:
    """The calibration of a results folder; empty if there is none, and with a warning if its file is damaged."""
    file = results / CALIBRATION
    if not file.exists():
        return {}
    try:
        return Calibration.model_validate_json(file.read_bytes(), strict=True).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        log.warning(
            f"{file}: is no calibration, so nothing is known from it ({where}{first['msg']}); `neuralign plan STUDY "
            "--calibrate` measures again and replaces it"
        )
        return {}


def write_calibration(calibration: dict[str, Any], results: Path) -> None:
    """Keep a calibration in the file of a results folder."""
    with atomic(results / CALIBRATION) as temporary:
        temporary.write_text(json.dumps(calibration, indent=1))
