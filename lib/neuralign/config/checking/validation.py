"""Values of a config against pydantic models, and names against the sections of the config."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from neuralign.config.problems import Problems, shown
from neuralign.config.schema import NameOf

Entry = dict[str, Any]
Sections = Mapping[str, Mapping[str, Any]]  # section -> name -> entry, as written


class Validation(Problems):
    """The problems of one config, and the two ways to find them: `model` for values, `name` for references."""

    def __init__(self, sections: Sections | None = None):
        super().__init__()
        self.sections: Sections = sections or {}

    def model(self, model: type[BaseModel], raw: Any, path: str, more_keys: Iterable[str] = ()) -> Entry:
        """`raw` with the defaults of the model filled in, or {} if a value is refused.

        `more_keys` are named in messages as allowed too: they belong to the same entry, but to another model.
        """
        try:
            return model.model_validate(raw).model_dump()
        except ValidationError as refused:
            for error in refused.errors():
                self._note_error(model, error, path, more_keys)
            return {}

    def _note_error(self, model: type[BaseModel], error: Any, path: str, more_keys: Iterable[str]) -> None:
        *parents, key = error["loc"] or ("",)
        parent_path = ".".join([path, *map(str, parents)])
        for parent in parents:
            inner = model.model_fields[parent].annotation if parent in model.model_fields else None
            model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else model
        if error["type"] == "extra_forbidden":
            self.refuse(parent_path, "unknown key", key, [*model.model_fields, *more_keys])
        elif error["type"] == "missing":
            allowed = ", ".join([*model.model_fields, *more_keys])
            self.note(parent_path, f"the key {key!r} is missing (allowed: {allowed})")
        else:
            value_path = f"{parent_path}.{key}" if key != "" else parent_path
            reason = error["msg"].removeprefix("Value error, ").lower()
            self.note(value_path, f"found {shown(error['input'])}: {reason}")

    def name(self, section: str, name: Any, path: str) -> None:
        """Note it if the section has no entry of this name."""
        if not isinstance(name, str) or name not in self.sections[section]:
            self.refuse(path, f"no such entry of {section!r}:", name, self.sections[section])

    def names(self, model: type[BaseModel], entry: Entry, path: str, *, numbered: bool = True) -> None:
        """Note all names in an entry that their sections lack; `numbered`: the path says which item of a list it is."""
        for key, field in model.model_fields.items():
            for section in (m.section for m in field.metadata if isinstance(m, NameOf)):
                value = entry[key]
                if isinstance(value, list):
                    for i, name in enumerate(value):
                        self.name(section, name, f"{path}.{key}[{i}]" if numbered else f"{path}.{key}")
                elif value is not None:
                    self.name(section, value, f"{path}.{key}")
