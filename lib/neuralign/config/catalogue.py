"""The config, checked: every entry against the signature of its plug-in, every reference against the catalogue.

`Catalogue(config)` raises one `ConfigError` that lists everything wrong, each with the path of the key, what was found
and what is allowed. It costs no import of torch, so a typo stops Snakemake before any job is planned.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from itertools import product
from typing import Any

from neuralign.common.files import PACKAGE
from neuralign.config.checks import (
    attack_problem,
    full_passes_problem,
    name_problem,
    normalisation_problem,
    pair_problem,
    printable,
    same_networks,
    shown,
    turned,
)
from neuralign.config.overrides import PLACES, merge
from neuralign.config.problems import ConfigError, Entry, Problems
from neuralign.config.references import ObjectError, find, is_object
from neuralign.config.schema import (
    OVERRIDABLE,
    PLAIN_SECTIONS,
    PLUGIN_SECTIONS,
    SECTIONS,
    ForeignNetwork,
    Grid,
    Nothing,
)
from neuralign.config.signatures import plugins, schema

__all__ = ["SECTIONS", "Catalogue", "ConfigError", "Entry"]

RESERVED = ("all", "job", *(path.stem for path in PACKAGE.parents[1].glob("scripts/*.py")))  # names of rules


class Catalogue:
    """A checked config. `entry` gives one entry of a section for one place; `grids` the combinations of a study."""

    def __init__(self, config: Mapping[str, Any]):
        self._problems, self._entries = Problems(), dict[tuple[Any, ...], Any]()
        self._raw = {section: self._section(config, section) for section in SECTIONS}
        for key in config.keys() - {*SECTIONS, "default_study"}:
            self._problems.refuse(str(key), "unknown section", key, [*SECTIONS, "default_study"])
        for section in SECTIONS:
            for name, raw in self._raw[section].items():
                self._check_entry(section, name, raw)
        self.default_study = config.get("default_study", next(iter(self._raw["studies"]), None))
        self._refer("default_study", self.default_study, "studies")
        self._problems.stop()
        self.studies = {name: self._study(name) for name in self._raw["studies"]}
        self._problems.stop()

    # what the workflow asks

    def entry(self, section: str, name: str, **place: str) -> Any:
        """The entry with the overrides for this dataset, network, regime applied, and defaults filled in."""
        asked = (section, name, *sorted(place.items()))
        if asked not in self._entries:  # a study of 800 jobs asks 50,000 times
            found = self._bind(section, name, merge(self._raw[section][name], place), f"{section}.{name}")
            self._problems.stop()  # overrides that are sound one by one may not be so together
            self._entries[asked] = found
        return deepcopy(self._entries[asked])

    def trained(self, curve: str) -> bool:
        """Whether curves of this entry have bends to train."""
        return "bends" in self.entry("curves", curve)

    # checks; each notes its problems and goes on

    def _refer(self, path: str, name: Any, section: str) -> None:
        if not isinstance(name, str) or name not in self._raw[section]:
            self._problems.refuse(path, f"no such entry of {section!r}:", name, self._raw[section])

    def _section(self, config: Mapping[str, Any], section: str) -> Entry:
        found = config.get(section) or {}
        if not isinstance(found, Mapping):
            self._problems.note(section, f"must map names to entries, found {shown(found)}")
            return {}
        for name in found:
            self._problems.note(f"{section}.{printable(name)}", name_problem(section, name, found.keys(), RESERVED))
        return {str(name): entry for name, entry in found.items()}

    def _check_entry(self, section: str, name: str, raw: Any) -> None:
        path = f"{section}.{name}"
        if raw is None and section != "alignments":
            raw = {}
        if raw is not None and not isinstance(raw, Mapping):
            return self._problems.note(path, f"must be a mapping, found {shown(raw)}")
        overrides = (raw or {}).get("overrides") or []
        if overrides and section not in OVERRIDABLE:
            return self._problems.note(f"{path}.overrides", f"{section} are the same everywhere and take no overrides")
        if not isinstance(overrides, list):
            return self._problems.note(f"{path}.overrides", f"must be a list, found {shown(overrides)}")
        self._raw[section][name] = raw
        sound = len(self._problems)
        self._bind(section, name, merge(raw, {}), path)
        if len(self._problems) > sound:
            return  # overrides would repeat what is wrong with the entry itself
        for i, override in enumerate(overrides):
            here = f"{path}.overrides[{i}]"
            when = override.get("when") if isinstance(override, Mapping) else None
            if not isinstance(when, Mapping) or not when:
                self._problems.note(
                    here, f"needs `when`, a mapping with some of {', '.join(PLACES)}; found {shown(override)}"
                )
                continue
            for key, value in when.items():
                if key not in PLACES:
                    self._problems.refuse(f"{here}.when", "unknown key", key, PLACES)
                else:
                    self._refer(f"{here}.when.{key}", value, f"{key}s")
                    if section == f"{key}s" and value != name:
                        never = f"never applies: this is the entry {name}, not {shown(value)}"
                        self._problems.note(f"{here}.when.{key}", never)
            self._bind(section, name, merge(raw, {k: str(v) for k, v in when.items()}), here)

    def _bind(self, section: str, name: str, raw: Any, path: str) -> Any:
        if raw is None:
            return None
        if section in PLUGIN_SECTIONS:
            home, keys = PLUGIN_SECTIONS[section]
            own = {k: v for k, v in raw.items() if k in keys.model_fields}
            rest = {"use": name} | {k: v for k, v in raw.items() if k not in own}
            entry = self._plugin(home, rest, path, extra=list(keys.model_fields))
            common = self._problems.model(keys, own, path)
            if common.get("on_curve"):
                self._plugin(home, {**rest, **common["on_curve"]}, f"{path}.on_curve")
            if common.get("start"):
                self._check_start(name, common, path)
            if section == "datasets":
                steps = common.get("augment", [])
                common["augment"] = [
                    self._plugin("augmentations", s, f"{path}.augment[{i}]") for i, s in enumerate(steps)
                ]
            if section in ("datasets", "networks"):
                self._problems.note(path, normalisation_problem(common.get("mean"), common.get("std")))
            if section == "attacks":
                self._problems.note(path, attack_problem(entry))
            return entry | common if keys is not Nothing else entry
        entry = self._problems.model(PLAIN_SECTIONS[section], raw, path)
        if entry and (check := getattr(self, f"_check_{section}", None)):
            check(entry, path)
        return entry

    def _plugin(self, home: str, raw: Any, path: str, extra: Iterable[str] = ()) -> Entry:
        if not isinstance(raw, Mapping) or not isinstance(raw.get("use"), str):
            self._problems.note(
                path, f"must be a mapping with `use`, one of {', '.join(plugins(home))}; found {shown(raw)}"
            )
            return {}
        if home == "networks" and is_object(raw["use"]):
            return self._foreign(raw, path, extra)
        if raw["use"] not in plugins(home):
            self._problems.refuse(f"{path}.use", "no such plug-in", raw["use"], plugins(home))
            return {}
        options = {k: v for k, v in raw.items() if k != "use"}
        return {"use": raw["use"]} | self._problems.model(schema(home, raw["use"]), options, path, extra)

    def _foreign(self, raw: Mapping[str, Any], path: str, extra: Iterable[str]) -> Entry:
        """A network that is any importable callable. Nothing is imported: that it exists is all that is checked."""
        try:
            find(raw["use"])
        except ObjectError as error:
            self._problems.note(f"{path}.use", str(error))
            return {}
        options = {k: v for k, v in raw.items() if k != "use"}
        return {"use": raw["use"]} | self._problems.model(ForeignNetwork, options, path, extra)

    def _check_start(self, name: str, entry: Entry, path: str) -> None:
        start, alignments = entry["start"], self._raw["alignments"]
        self._refer(f"{path}.start", start, "alignments")
        first = alignments.get(start)
        if first is not None and first.get("attention", False) != entry["attention"]:
            where = f"{path}.attention"
            self._problems.note(where, f"found {shown(entry['attention'])}; it must be that of {start}, its start")
        seen = [name]
        while start and start not in seen:
            seen.append(start)
            start = (alignments.get(start) or {}).get("start") or ""
        if start:
            self._problems.note(f"{path}.start", f"goes round in a circle: {' -> '.join([*seen, start])}")

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
        self._problems.note(f"{path}.full_passes", full_passes_problem(plane))

    def _check_evaluations(self, evaluation: Entry, path: str) -> None:
        self._problems.note(f"{path}.full_passes", full_passes_problem(evaluation))
        if evaluation["attacked_statistics"] is not None:
            self._refer(f"{path}.attacked_statistics", evaluation["attacked_statistics"], "attacks")
        for i, attack in enumerate(evaluation["attacks"]):
            self._refer(f"{path}.attacks[{i}]", attack, "attacks")
            if attack == "clean":
                self._problems.note(f"{path}.attacks[{i}]", "'clean' is always measured; name only attacks")
            if attack in evaluation["attacks"][:i]:
                self._problems.note(f"{path}.attacks[{i}]", f"names {attack!r} twice")

    def _check_studies(self, study: Entry, path: str) -> None:
        seen: dict[tuple[str, ...], int] = {}
        for i, grid in enumerate(study["grids"]):
            if found := self._grid(grid, f"{path}.grids[{i}]"):
                runs = set(product(*(found[k] for k in (*PLACES, "pair", "method"))))
                for run in sorted(runs & seen.keys())[:1]:
                    self._problems.note(f"{path}.grids[{i}]", f"repeats {'/'.join(run)} of grids[{seen[run]}]")
                for run in runs:
                    seen |= {run: i, (*run[:3], turned(run[3]), run[4]): i}

    # studies

    def _study(self, name: str) -> Entry:
        study = self.entry("studies", name)
        study["grids"] = [self._grid(g, f"studies.{name}.grids[{i}]") for i, g in enumerate(study["grids"])]
        return study

    def _grid(self, raw: Any, path: str) -> Entry:
        if not isinstance(raw, Mapping):
            self._problems.note(path, f"must be a mapping, found {shown(raw)}")
            return {}
        several = [k for k in Grid.model_fields if k not in ("evaluation", "plane", "measures")]
        listed = {k: [v] if k in several and not isinstance(v, list) else v for k, v in raw.items()}
        grid = self._problems.model(Grid, listed, path)
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
                self._problems.note(f"{path}.{key}", "is empty; a study needs at least one")
            if key != "curve_seed" and len(set(grid[key])) < len(grid[key]):
                self._problems.note(f"{path}.{key}", f"names something twice: {grid[key]}")
        for pair in grid["pair"]:
            self._check_pair(pair, f"{path}.pair")
        self._problems.note(f"{path}.pair", same_networks(grid["pair"]))
        if len(grid["curve_seed"]) == 1:
            grid["curve_seed"] *= len(grid["pair"])
        if len(grid["curve_seed"]) != len(grid["pair"]):
            found = f"{len(grid['curve_seed'])} seeds for {len(grid['pair'])} pairs"
            self._problems.note(f"{path}.curve_seed", f"found {found}: give one for each pair, or one for all")
        return grid

    def _check_pair(self, pair: str, path: str) -> None:
        if problem := pair_problem(pair):
            return self._problems.note(path, problem)
        for end in pair.split("-"):
            if not end.isdecimal():
                self._refer(path, end, "checkpoints")
