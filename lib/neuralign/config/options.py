"""The types that plug-ins use to annotate their options, with the values that the config may have for them.

An option is a keyword-only parameter, `eps: Positive` or `steps: Count = 5`. The config check (signatures.py) reads
these annotations without importing the plug-in, so this module imports no torch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal  # noqa: F401 - annotations of options use Literal
from urllib.parse import urlsplit

from annotated_types import GroupedMetadata
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema


def in_words(words: str) -> WithJsonSchema:
    """For `Annotated`: the words for a type in docs/config.md, where they do not follow from its JSON schema."""
    return WithJsonSchema({"words": words})


def _parse_number(value: Any) -> Any:
    """The value, with a text such as "8/255" as a number. Refuses true and false, which pydantic reads as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    if isinstance(value, str) and (quotient := re.fullmatch(r"\s*([\d.]+)\s*/\s*([\d.]+)\s*", value)):
        numerator, denominator = map(float, quotient.groups())
        return numerator / denominator if denominator else value
    return value


def plain(value: str) -> str:
    """The text. Raises ValueError if it has control characters, which no path, address or name needs."""
    if control := [character for character in value if ord(character) < 32 or ord(character) == 127]:
        raise ValueError(f"control characters such as {control[0]!r} are not allowed")
    return value


def address(value: str) -> str:
    """The location of a file. Raises ValueError unless it is a path, file:///path, or an http(s) URL with a host."""
    parts = urlsplit(plain(value))
    is_remote = parts.scheme in ("http", "https") and parts.hostname
    is_local_url = parts.scheme == "file" and parts.netloc in ("", "localhost") and value.startswith("file:///")
    is_path = parts.scheme not in ("http", "https", "file") and "://" not in value
    if not (is_remote or is_local_url or is_path):
        raise ValueError("a source is http://host/..., https://host/..., file:///path or a plain path")
    return value


def checksum(value: str) -> str:
    """The digest of a file, as `algorithm:digest`. Raises ValueError unless it is of sha256 or md5."""
    if not re.fullmatch(r"sha256:[0-9a-fA-F]{64}|md5:[0-9a-fA-F]{32}", value):
        raise ValueError("must be sha256:<64 hex digits> or md5:<32 hex digits>")
    return value


_Number = BeforeValidator(_parse_number)
_Finite = Field(allow_inf_nan=False)

Real = Annotated[float, _Number, _Finite]
Positive = Annotated[float, _Number, _Finite, Field(gt=0)]
NonNegative = Annotated[float, _Number, _Finite, Field(ge=0)]
Fraction = Annotated[float, _Number, _Finite, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, _Number, _Finite, Field(ge=0, lt=1)]
OpenFraction = Annotated[float, _Number, _Finite, Field(gt=0, lt=1)]
PositiveFraction = Annotated[float, _Number, _Finite, Field(gt=0, le=1)]
Count = Annotated[int, _Number, Field(ge=1, le=10**8)]
Epochs = Annotated[int, _Number, Field(ge=1, le=100_000)]
Points = Annotated[int, _Number, Field(ge=2, le=10_001)]  # on a curve, both ends included
GridPoints = Annotated[int, _Number, Field(ge=2, le=1001)]  # of the grid on a plane, in each direction
Side = Annotated[int, _Number, Field(ge=1, le=4096)]  # height and width of an image in pixels
NonNegativeInt = Annotated[int, _Number, Field(ge=0)]
Seed = Annotated[int, _Number, Field(ge=0, lt=2**31)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1), AfterValidator(plain)]
Address = Annotated[Text, AfterValidator(address), in_words("path, or an http://, https:// or file:/// address")]
Checksum = Annotated[Text, AfterValidator(checksum), in_words("`sha256:<64 hex digits>` or `md5:<32 hex digits>`")]


def _check_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("the smaller number comes first")
    return value


def _check_strict_order(value: list[float]) -> list[float]:
    if value[0] >= value[1]:
        raise ValueError("the smaller number comes first")
    return value


Range = Annotated[
    list[Real],
    Field(min_length=2, max_length=2),
    AfterValidator(_check_strict_order),
    in_words("two numbers, the smaller first"),
]
Span = Annotated[
    tuple[Positive, Positive], AfterValidator(_check_order), in_words("two positive numbers, the smaller first")
]


@dataclass(frozen=True)
class every(GroupedMetadata):
    """For `Annotated[int, every(6, 8)]`: a whole number first + k * step with k = 0, 1, 2, ...; here 8, 14, 20, ..."""

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


def at_least(value: int) -> Any:
    """For `Annotated[int, at_least(6)]`: a number from 6."""
    return Field(ge=value)
