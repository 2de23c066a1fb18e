"""The vocabulary of option types: what a plug-in writes in its signature is what the config may say.

An option is a keyword-only parameter, `eps: Positive` or `steps: Count = 5`. The config check (signatures.py) reads
these annotations without importing the plug-in, so this module imports no torch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from annotated_types import GroupedMetadata
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema


def in_words(words: str) -> WithJsonSchema:
    """For `Annotated`: how docs/config.md describes a type whose bounds alone do not."""
    return WithJsonSchema({"words": words})


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    if isinstance(value, str) and (quotient := re.fullmatch(r"\s*([\d.]+)\s*/\s*([\d.]*[1-9][\d.]*)\s*", value)):
        return float(quotient[1]) / float(quotient[2])  # eps: 8/255
    return value


def plain(value: str) -> str:
    """The text, refused if it has control characters, which no path, address or name needs."""
    if odd := [character for character in value if ord(character) < 32 or ord(character) == 127]:
        raise ValueError(f"control characters such as {odd[0]!r} are not allowed")
    return value


def address(value: str) -> str:
    """Where a file is: a plain path, file:///path, or an http address with a host."""
    parts = urlsplit(plain(value))
    remote = parts.scheme in ("http", "https") and parts.hostname
    here = parts.scheme == "file" and parts.netloc in ("", "localhost") and value.startswith("file:///")
    if not (remote or here or (parts.scheme not in ("http", "https", "file") and "://" not in value)):
        raise ValueError("a source is http://host/..., https://host/..., file:///path or a plain path")
    return value


def checksum(value: str) -> str:
    """The digest of a file with the name of its algorithm in front."""
    if not re.fullmatch(r"sha256:[0-9a-fA-F]{64}|md5:[0-9a-fA-F]{32}", value):
        raise ValueError("neither sha256:<64 hex digits> nor md5:<32 hex digits>")
    return value


_NotBool = BeforeValidator(_number)
_Finite = Field(allow_inf_nan=False)

Real = Annotated[float, _NotBool, _Finite]
Positive = Annotated[float, _NotBool, _Finite, Field(gt=0)]
NonNegative = Annotated[float, _NotBool, _Finite, Field(ge=0)]
Fraction = Annotated[float, _NotBool, _Finite, Field(ge=0, le=1)]
Proper = Annotated[float, _NotBool, _Finite, Field(ge=0, lt=1)]
Inner = Annotated[float, _NotBool, _Finite, Field(gt=0, lt=1)]
Unit = Annotated[float, _NotBool, _Finite, Field(gt=0, le=1)]  # of pixels, which are in [0, 1]
Count = Annotated[int, _NotBool, Field(ge=1, le=10**8)]
Points = Annotated[int, _NotBool, Field(ge=2, le=10_001)]
Side = Annotated[int, _NotBool, Field(ge=1, le=4096)]  # of an image, in pixels
Whole = Annotated[int, _NotBool, Field(ge=0)]
Seed = Annotated[int, _NotBool, Field(ge=0, lt=2**31)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1), AfterValidator(plain)]
Address = Annotated[Text, AfterValidator(address), in_words("path, or an http://, https:// or file:/// address")]
Checksum = Annotated[Text, AfterValidator(checksum), in_words("`sha256:<64 hex digits>` or `md5:<32 hex digits>`")]


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("the smaller number comes first")
    return value


def _growing(value: list[float]) -> list[float]:
    if value[0] >= value[1]:
        raise ValueError("the smaller number comes first")
    return value


Range = Annotated[
    list[Real], Field(min_length=2, max_length=2), AfterValidator(_growing), in_words("two numbers, the smaller first")
]
Span = Annotated[
    tuple[Positive, Positive], AfterValidator(_rising), in_words("two positive numbers, the smaller first")
]


@dataclass(frozen=True)
class every(GroupedMetadata):
    """For `Annotated[int, every(6, 8)]`: one of first, first + step, first + 2 step, ..."""

    step: int
    first: int

    def __iter__(self) -> Iterator[Any]:
        values = f"{self.first}, {self.first + self.step}, {self.first + 2 * self.step}, ..."

        def check(value: int) -> int:
            if value < self.first or (value - self.first) % self.step:
                raise ValueError(f"allowed are {values}")
            return value

        yield AfterValidator(check)
        yield in_words(f"whole number: {values}")


def least(value: int) -> Any:
    """For `Annotated[int, least(6)]`: at least that."""
    return Field(ge=value)


__all__ = [
    "Address",
    "Annotated",
    "Any",
    "Checksum",
    "Count",
    "Flag",
    "Fraction",
    "Inner",
    "Literal",
    "NonNegative",
    "Points",
    "Positive",
    "Proper",
    "Range",
    "Real",
    "Seed",
    "Side",
    "Span",
    "Text",
    "Unit",
    "Whole",
    "address",
    "checksum",
    "every",
    "least",
    "plain",
]
