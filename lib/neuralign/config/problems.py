"""What is wrong in a config, collected: each problem with the path of its key, what was found and what is allowed."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from neuralign.common.errors import Refused
from neuralign.config.checks import shown

Entry = dict[str, Any]


class ConfigError(Refused):
    """Everything that is wrong in a config."""

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(["the config is refused:", *(f"  {p}" for p in self.problems)]))


class Problems:
    """All that was found wrong so far; `stop` raises if there is anything."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __len__(self) -> int:
        return len(self.found)

    def stop(self) -> None:
        """Raise a ConfigError of all problems, if there are any."""
        if self.found:
            raise ConfigError(self.found)

    def note(self, path: str, text: str | None) -> None:
        """Add one, once; nothing where there is no text."""
        if text is not None and (problem := f"{path}: {text}") not in self.found:
            self.found.append(problem)

    def refuse(self, path: str, what: str, found: Any, allowed: Iterable[str]) -> None:
        """Add "what found (allowed: ...)", with the nearest of what is allowed."""
        allowed = list(allowed)
        near = difflib.get_close_matches(str(found), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        self.note(path, f"{what} {shown(found)}{hint} (allowed: {', '.join(allowed) or 'none'})")

    def model(self, model: type[BaseModel], raw: Any, path: str, extra: Iterable[str] = ()) -> Entry:
        """`raw` checked, with its defaults filled in; {} if anything is wrong, which is noted. `extra`: more keys that
        are allowed beside those of the model.
        """
        try:
            return model.model_validate(raw).model_dump()
        except ValidationError as error:
            for found in error.errors():
                self._explain(model, found, path, extra)
            return {}

    def _explain(self, model: type[BaseModel], found: Any, path: str, extra: Iterable[str]) -> None:
        *parents, last = found["loc"] or ("",)
        here = ".".join([path, *map(str, parents)])
        for parent in parents:
            inner = model.model_fields[parent].annotation if parent in model.model_fields else None
            model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else model
        if found["type"] == "extra_forbidden":
            self.refuse(here, "unknown key", last, [*model.model_fields, *extra])
        elif found["type"] == "missing":
            self.note(here, f"the key {last!r} is missing (allowed: {', '.join([*model.model_fields, *extra])})")
        else:
            where = f"{here}.{last}" if last != "" else here
            self.note(where, f"found {shown(found['input'])}: {found['msg'].removeprefix('Value error, ').lower()}")
