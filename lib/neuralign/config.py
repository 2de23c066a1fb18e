"""The config, checked: every entry against the signature of its plug-in, every reference against the catalogue.

`Catalogue(config)` raises one `ConfigError` that lists everything wrong, each with the path of the key, what was found
and what is allowed. It costs no import of torch, so a typo stops Snakemake before any job is planned.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neuralign.config_checks import attack_problem, name_problem, normalisation_problem, printable, same_networks, shown
from neuralign.options import Count, Flag, Fraction, NonNegative, Points, Positive, Proper, Range, Seed, Side, Unit
from neuralign.schemas import plugins, schema

Entry = dict[str, Any]
RESERVED = ("all", *(path.stem for path in Path(__file__).parents[2].glob("scripts/*.py")))  # names of rules
PLACES = ("dataset", "network", "regime")  # what an override may depend on


class ConfigError(ValueError):
    """Everything that is wrong in a config."""

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(["the config is refused:", *(f"  {p}" for p in self.problems)]))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _DatasetKeys(_Strict):
    augment: list[Any] = []
    mean: list[Fraction] | None = None
    std: list[Unit] | None = None


class _NetworkKeys(_Strict):
    input_size: Side | None = None
    on_curve: dict[str, Any] = {}  # options that differ on curves: a mistake of the paper's code, to be repeated


class _AlignmentKeys(_Strict):
    start: str | None = None  # the alignment whose permutation this one improves on; None: the identity
    augmented: Flag = False  # whether the method sees images as training does
    attacked: Flag = False  # whether it sees them attacked, as the regime does in training


class _Nothing(_Strict):
    pass


class _Training(_Strict):
    epochs: Annotated[Count, Field(le=100_000)]
    batch_size: Count
    lr: Positive
    momentum: Proper = 0.9
    weight_decay: NonNegative = 0.0
    nesterov: Flag = True
    precision: Literal["float32", "bfloat16"] = "float32"
    schedule: Any = Field(default_factory=lambda: {"use": "constant"})


class _Regime(_Strict):
    endpoint: _Training
    curve: _Training
    attack: str | None = None
    normalise: Flag = True


class _Method(_Strict):
    alignment: str
    curve: str


class _Evaluation(_Strict):
    points: Points
    batch_size: Count = 512
    images: Count | None = None  # for batch-norm statistics; None: the whole training set
    full_passes: int | None = Field(default=None, ge=2)  # points where all are seen, to correct those of `images`
    augment: Flag = True
    attacks: list[str] = []
    attacked_statistics: str | None = None  # re-estimate them under this attack, as the paper's code does
    seed: Seed = 0


class _Window(_Strict):
    """Which part of a plane is looked at: t1 = 1 is the second model, t2 = 1 the height of the third."""

    t1: Range = [-0.05, 1.05]
    t2: Range = [-0.05, 1.05]


class _CurveWindow(_Window):
    t2: Range = [-0.1, 1.5]


class _Plane(_Strict):
    points: Annotated[Points, Field(le=1001)]  # of the grid, in each direction
    initial: _Window = _Window()  # the plane of both ends and the second one aligned
    curve: _CurveWindow = _CurveWindow()  # the plane of a curve
    batch_size: Count = 512
    images: Count | None = None  # for batch-norm statistics; None: the whole training set
    full_passes: int | None = Field(default=None, ge=2)  # the same, in each direction
    augment: Flag = True
    seed: Seed = 0


class _Grid(_Strict):
    dataset: list[str]
    network: list[str]
    regime: list[str]
    pair: list[str]
    curve_seed: list[Seed]
    method: list[str]
    evaluation: str
    plane: str | None = None  # the protocol of the planes; None: none
    measures: list[Literal["signature", "midpoint", "bound"]] = ["signature"]


class _Study(_Strict):
    title: str
    description: str = ""
    grids: list[Any] = Field(min_length=1)


# section of the config -> folder of its plug-ins, and the keys of an entry that are not the plug-in's
PLUGIN_SECTIONS: dict[str, tuple[str, type[BaseModel]]] = {
    "datasets": ("data", _DatasetKeys),
    "networks": ("networks", _NetworkKeys),
    "attacks": ("attacks", _Nothing),
    "alignments": ("align", _AlignmentKeys),
    "curves": ("curves", _Nothing),
}
PLAIN_SECTIONS: dict[str, type[BaseModel]] = {
    "regimes": _Regime,
    "methods": _Method,
    "evaluations": _Evaluation,
    "planes": _Plane,
    "studies": _Study,
}
SECTIONS = [*PLUGIN_SECTIONS, *PLAIN_SECTIONS]
OVERRIDABLE = ("networks", "attacks", "alignments", "regimes", "methods", "evaluations", "planes")


class Catalogue:
    """A checked config. `entry` gives one entry of a section for one place; `grids` the combinations of a study."""

    def __init__(self, config: Mapping[str, Any]):
        self._problems: list[str] = []
        self._raw = {section: self._section(config, section) for section in SECTIONS}
        for key in config.keys() - {*SECTIONS, "default_study"}:
            self._refuse(str(key), "unknown section", key, [*SECTIONS, "default_study"])
        for section in SECTIONS:
            for name, raw in self._raw[section].items():
                self._check_entry(section, name, raw)
        self.default_study = config.get("default_study", next(iter(self._raw["studies"]), None))
        self._refer("default_study", self.default_study, "studies")
        if self._problems:
            raise ConfigError(self._problems)
        self.studies = {name: self._study(name) for name in self._raw["studies"]}
        if self._problems:
            raise ConfigError(self._problems)

    # what the workflow asks

    def entry(self, section: str, name: str, **place: str) -> Any:
        """The entry with the overrides for this dataset, network, regime applied, and defaults filled in."""
        found = self._bind(section, name, _merge(self._raw[section][name], place), f"{section}.{name}")
        if self._problems:  # overrides that are sound one by one may not be so together
            raise ConfigError(self._problems)
        return found

    def trained(self, curve: str) -> bool:
        """Whether curves of this entry have bends to train."""
        return "bends" in self.entry("curves", curve)

    # checks; each notes its problems and goes on

    def _note(self, path: str, text: str) -> None:
        if (problem := f"{path}: {text}") not in self._problems:
            self._problems.append(problem)

    def _note_if(self, path: str, problem: str | None) -> None:
        if problem:
            self._note(path, problem)

    def _refuse(self, path: str, what: str, found: Any, allowed: Iterable[str]) -> None:
        allowed = list(allowed)
        near = difflib.get_close_matches(str(found), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        self._note(path, f"{what} {shown(found)}{hint} (allowed: {', '.join(allowed) or 'none'})")

    def _refer(self, path: str, name: Any, section: str) -> None:
        if not isinstance(name, str) or name not in self._raw[section]:
            self._refuse(path, f"no such entry of {section!r}:", name, self._raw[section])

    def _section(self, config: Mapping[str, Any], section: str) -> Entry:
        found = config.get(section) or {}
        if not isinstance(found, Mapping):
            self._note(section, f"must map names to entries, found {shown(found)}")
            return {}
        for name in found:
            if problem := name_problem(section, name, found.keys(), RESERVED):
                self._note(f"{section}.{printable(name)}", problem)
        return {str(name): entry for name, entry in found.items()}

    def _check_entry(self, section: str, name: str, raw: Any) -> None:
        path = f"{section}.{name}"
        if raw is None and section != "alignments":
            raw = {}
        if raw is not None and not isinstance(raw, Mapping):
            return self._note(path, f"must be a mapping, found {shown(raw)}")
        overrides = (raw or {}).get("overrides") or []
        if overrides and section not in OVERRIDABLE:
            return self._note(f"{path}.overrides", f"{section} are the same everywhere and take no overrides")
        if not isinstance(overrides, list):
            return self._note(f"{path}.overrides", f"must be a list, found {shown(overrides)}")
        self._raw[section][name] = raw
        sound = len(self._problems)
        self._bind(section, name, _merge(raw, {}), path)
        if len(self._problems) > sound:
            return  # overrides would repeat what is wrong with the entry itself
        for i, override in enumerate(overrides):
            here = f"{path}.overrides[{i}]"
            when = override.get("when") if isinstance(override, Mapping) else None
            if not isinstance(when, Mapping) or not when:
                self._note(here, f"needs `when`, a mapping with some of {', '.join(PLACES)}; found {shown(override)}")
                continue
            for key, value in when.items():
                if key not in PLACES:
                    self._refuse(f"{here}.when", "unknown key", key, PLACES)
                else:
                    self._refer(f"{here}.when.{key}", value, f"{key}s")
                    if section == f"{key}s" and value != name:
                        self._note(f"{here}.when.{key}", f"never applies: this is the entry {name}, not {shown(value)}")
            self._bind(section, name, _merge(raw, {k: str(v) for k, v in when.items()}), here)

    def _bind(self, section: str, name: str, raw: Any, path: str) -> Any:
        if raw is None:
            return None
        if section in PLUGIN_SECTIONS:
            home, keys = PLUGIN_SECTIONS[section]
            own = {k: v for k, v in raw.items() if k in keys.model_fields}
            rest = {"use": name} | {k: v for k, v in raw.items() if k not in own}
            entry = self._plugin(home, rest, path, extra=list(keys.model_fields))
            common = self._model(keys, own, path)
            if common.get("on_curve"):
                self._plugin(home, {**rest, **common["on_curve"]}, f"{path}.on_curve")
            if common.get("start"):
                self._check_start(name, common["start"], path)
            if section == "datasets":
                steps = common.get("augment", [])
                common["augment"] = [
                    self._plugin("augmentations", s, f"{path}.augment[{i}]") for i, s in enumerate(steps)
                ]
                self._note_if(path, normalisation_problem(common.get("mean"), common.get("std")))
            if section == "attacks":
                self._note_if(path, attack_problem(entry))
            return entry | common if keys is not _Nothing else entry
        entry = self._model(PLAIN_SECTIONS[section], raw, path)
        if entry:
            getattr(self, f"_check_{section}")(entry, path)
        return entry

    def _plugin(self, home: str, raw: Any, path: str, extra: Iterable[str] = ()) -> Entry:
        if not isinstance(raw, Mapping) or not isinstance(raw.get("use"), str):
            self._note(path, f"must be a mapping with `use`, one of {', '.join(plugins(home))}; found {shown(raw)}")
            return {}
        if raw["use"] not in plugins(home):
            self._refuse(f"{path}.use", "no such plug-in", raw["use"], plugins(home))
            return {}
        options = {k: v for k, v in raw.items() if k != "use"}
        return {"use": raw["use"]} | self._model(schema(home, raw["use"]), options, path, extra)

    def _model(self, model: type[BaseModel], raw: Any, path: str, extra: Iterable[str] = ()) -> Entry:
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
            self._refuse(here, "unknown key", last, [*model.model_fields, *extra])
        elif found["type"] == "missing":
            self._note(here, f"the key {last!r} is missing (allowed: {', '.join([*model.model_fields, *extra])})")
        else:
            where = f"{here}.{last}" if last != "" else here
            self._note(where, f"found {shown(found['input'])}: {found['msg'].removeprefix('Value error, ').lower()}")

    def _check_start(self, name: str, start: str, path: str) -> None:
        self._refer(f"{path}.start", start, "alignments")
        seen = [name]
        while start and start not in seen:
            seen.append(start)
            start = (self._raw["alignments"].get(start) or {}).get("start") or ""
        if start:
            self._note(f"{path}.start", f"goes round in a circle: {' -> '.join([*seen, start])}")

    def _check_regimes(self, regime: Entry, path: str) -> None:
        if regime["attack"] is not None:
            self._refer(f"{path}.attack", regime["attack"], "attacks")
        for kind in ("endpoint", "curve"):
            here = f"{path}.{kind}"
            regime[kind]["schedule"] = self._plugin("schedules", regime[kind]["schedule"], f"{here}.schedule")

    def _check_methods(self, method: Entry, path: str) -> None:
        self._refer(f"{path}.alignment", method["alignment"], "alignments")
        self._refer(f"{path}.curve", method["curve"], "curves")

    def _check_planes(self, plane: Entry, path: str) -> None:
        self._check_full_passes(plane, path)

    def _check_full_passes(self, entry: Entry, path: str) -> None:
        """Of an entry of evaluations or planes."""
        if (found := entry["full_passes"]) is None:
            return
        if entry["images"] is None:
            self._note(f"{path}.full_passes", f"found {found}: needs `images`; without it every point is a full pass")
        if found > entry["points"]:
            self._note(f"{path}.full_passes", f"found {found}: must be at most points, {entry['points']}")

    def _check_evaluations(self, evaluation: Entry, path: str) -> None:
        self._check_full_passes(evaluation, path)
        if evaluation["attacked_statistics"] is not None:
            self._refer(f"{path}.attacked_statistics", evaluation["attacked_statistics"], "attacks")
        for i, attack in enumerate(evaluation["attacks"]):
            self._refer(f"{path}.attacks[{i}]", attack, "attacks")
            if attack == "clean":
                self._note(f"{path}.attacks[{i}]", "'clean' is always measured; name only attacks")
            if attack in evaluation["attacks"][:i]:
                self._note(f"{path}.attacks[{i}]", f"names {attack!r} twice")

    def _check_studies(self, study: Entry, path: str) -> None:
        seen: dict[tuple[str, ...], int] = {}
        for i, grid in enumerate(study["grids"]):
            if found := self._grid(grid, f"{path}.grids[{i}]"):
                runs = set(product(*(found[k] for k in (*PLACES, "pair", "method"))))
                for run in sorted(runs & seen.keys())[:1]:
                    self._note(f"{path}.grids[{i}]", f"repeats {'/'.join(run)} of grids[{seen[run]}]")
                for run in runs:
                    seen |= {run: i, (*run[:3], "-".join(reversed(run[3].split("-"))), run[4]): i}

    # studies

    def _study(self, name: str) -> Entry:
        study = self.entry("studies", name)
        study["grids"] = [self._grid(g, f"studies.{name}.grids[{i}]") for i, g in enumerate(study["grids"])]
        return study

    def _grid(self, raw: Any, path: str) -> Entry:
        if not isinstance(raw, Mapping):
            self._note(path, f"must be a mapping, found {shown(raw)}")
            return {}
        several = [k for k in _Grid.model_fields if k not in ("evaluation", "plane", "measures")]
        listed = {k: [v] if k in several and not isinstance(v, list) else v for k, v in raw.items()}
        grid = self._model(_Grid, listed, path)
        if not grid:
            return {}
        for key in ("dataset", "network", "regime", "method"):
            for name in grid[key]:
                self._refer(f"{path}.{key}", name, f"{key}s")
        self._refer(f"{path}.evaluation", grid["evaluation"], "evaluations")
        if grid["plane"] is not None:
            self._refer(f"{path}.plane", grid["plane"], "planes")
        for key in several:
            if not grid[key]:
                self._note(f"{path}.{key}", "is empty; a study needs at least one")
            if key != "curve_seed" and len(set(grid[key])) < len(grid[key]):
                self._note(f"{path}.{key}", f"names something twice: {grid[key]}")
        for pair in grid["pair"]:
            seeds = re.fullmatch(r"(\d+)-(\d+)", pair)
            if not seeds or int(seeds[1]) == int(seeds[2]) or pair != f"{int(seeds[1])}-{int(seeds[2])}":
                self._note(f"{path}.pair", f"found {shown(pair)}: a pair is two different seeds, such as 1-2")
            elif max(int(seeds[1]), int(seeds[2])) >= 2**31:
                self._note(f"{path}.pair", f"found {pair!r}: a seed is less than {2**31}")
        self._note_if(f"{path}.pair", same_networks(grid["pair"]))
        if len(grid["curve_seed"]) == 1:
            grid["curve_seed"] *= len(grid["pair"])
        if len(grid["curve_seed"]) != len(grid["pair"]):
            found = f"{len(grid['curve_seed'])} seeds for {len(grid['pair'])} pairs"
            self._note(f"{path}.curve_seed", f"found {found}: give one for each pair, or one for all")
        return grid


def _merge(raw: Any, place: Mapping[str, str]) -> Any:
    """`raw` without its overrides, those that fit `place` merged in, in their order."""
    if raw is None:
        return None
    merged = {k: v for k, v in raw.items() if k != "overrides"}
    for override in raw.get("overrides") or []:
        when = override.get("when") if isinstance(override, Mapping) else None
        if when and all(place.get(k) == v for k, v in when.items()):
            merged = _deep(merged, {k: v for k, v in override.items() if k != "when"})
    return merged


def _deep(base: Any, over: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping) and "use" not in over:
        return {**base, **{k: _deep(base.get(k), v) for k, v in over.items()}}
    return over
