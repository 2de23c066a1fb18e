"""The vocabulary of option types: what a plug-in writes in its signature is what the config may say.

An option is a keyword-only parameter, `eps: Positive` or `steps: Count = 5`. The config check (config.py) reads these
annotations without importing the plug-in, so this module knows nothing of torch and costs nothing to import.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    if isinstance(value, str) and (quotient := re.fullmatch(r"\s*([\d.]+)\s*/\s*([\d.]*[1-9][\d.]*)\s*", value)):
        return float(quotient[1]) / float(quotient[2])  # eps: 8/255
    return value


_NotBool = BeforeValidator(_number)
_Finite = Field(allow_inf_nan=False)

Real = Annotated[float, _NotBool, _Finite]
Positive = Annotated[float, _NotBool, _Finite, Field(gt=0)]
NonNegative = Annotated[float, _NotBool, _Finite, Field(ge=0)]
Fraction = Annotated[float, _NotBool, _Finite, Field(ge=0, le=1)]
Count = Annotated[int, _NotBool, Field(ge=1)]
Whole = Annotated[int, _NotBool, Field(ge=0)]
Seed = Annotated[int, _NotBool, Field(ge=0, lt=2**31)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1)]


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("the smaller number comes first")
    return value


def _growing(value: list[float]) -> list[float]:
    if value[0] >= value[1]:
        raise ValueError("the smaller number comes first")
    return value


Range = Annotated[list[Real], Field(min_length=2, max_length=2), AfterValidator(_growing)]
Span = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]


def every(step: int, first: int) -> AfterValidator:
    """For `Annotated[int, every(6, 8)]`: one of first, first + step, first + 2 step, ..."""

    def check(value: int) -> int:
        if value < first or (value - first) % step:
            raise ValueError(f"allowed are {first}, {first + step}, {first + 2 * step}, ...")
        return value

    return AfterValidator(check)


def least(value: int) -> Any:
    """For `Annotated[int, least(6)]`: at least that."""
    return Field(ge=value)


__all__ = [
    "Annotated",
    "Any",
    "Count",
    "Flag",
    "Fraction",
    "Literal",
    "NonNegative",
    "Positive",
    "Range",
    "Real",
    "Seed",
    "Span",
    "Text",
    "Whole",
    "every",
    "least",
]
