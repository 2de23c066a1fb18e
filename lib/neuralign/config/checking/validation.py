"""Checks values of a config against pydantic models, and names in it against the sections of the config."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from neuralign.config.problems import Problems, short_repr
from neuralign.config.schema import NameOf

Entry = dict[str, Any]
Sections = Mapping[str, Mapping[str, Any]]  # section -> name -> entry, as written


class Validation(Problems):
    """The problems of one config, and methods that add to them: `validate` for values, `check_name` for references."""

    def __init__(self, sections: Sections | None = None):
        super().__init__()
        self.sections: Sections = sections or {}

    def validate(self, model: type[BaseModel], raw: Any, path: str, more_keys: Iterable[str] = ()) -> Entry:
        """`raw` with the defaults of the model filled in, or {} if a value is refused.

        `more_keys`: keys that messages name as allowed too; another model checks them.
        """
        try:
            return model.model_validate(raw).model_dump()
        except ValidationError as validation_error:
            for error in validation_error.errors():
                self._note_error(model, error, path, more_keys)
            return {}

    def _note_error(self, model: type[BaseModel], error: Any, path: str, more_keys: Iterable[str]) -> None:
        """Note one error of pydantic, in the words of this project where a key is unknown or missing."""
        *parents, key = error["loc"] or ("",)
        parent_path = ".".join([path, *map(str, parents)])
        for parent in parents:
            annotation = model.model_fields[parent].annotation if parent in model.model_fields else None
            model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else model
        if error["type"] == "extra_forbidden":
            self.note_not_allowed(parent_path, "unknown key", key, [*model.model_fields, *more_keys])
        elif error["type"] == "missing":
            allowed = ", ".join([*model.model_fields, *more_keys])
            self.note(parent_path, f"the key {key!r} is missing (allowed: {allowed})")
        else:
            value_path = f"{parent_path}.{key}" if key != "" else parent_path
            reason = error["msg"].removeprefix("Value error, ").lower()
            self.note(value_path, f"found {short_repr(error['input'])}: {reason}")

    def check_name(self, section: str, name: Any, path: str) -> None:
        """Note a problem if the section has no entry of this name."""
        if not isinstance(name, str) or name not in self.sections[section]:
            self.note_not_allowed(path, f"no such entry of {section!r}:", name, self.sections[section])

    def check_names(self, model: type[BaseModel], entry: Entry, path: str, *, numbered: bool = True) -> None:
        """Check all names in an entry that refer to other sections (`NameOf`).

        `numbered`: paths in messages have the index of an item in a list.
        """
        for key, field in model.model_fields.items():
            for section in (mark.section for mark in field.metadata if isinstance(mark, NameOf)):
                value = entry[key]
                if isinstance(value, list):
                    for i, name in enumerate(value):
                        self.check_name(section, name, f"{path}.{key}[{i}]" if numbered else f"{path}.{key}")
                elif value is not None:
                    self.check_name(section, value, f"{path}.{key}")
