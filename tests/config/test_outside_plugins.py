"""Plug-ins from outside: by a file, a module or an entry point; what does not fit is refused by its line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hostile_configs import SMALL, changed

import neuralign.config.plugins as known_plugins
from neuralign.common.files import PACKAGE
from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.config.metrics import metrics_of
from neuralign.config.plugins import KINDS, plugin
from neuralign.config.references import ObjectError
from neuralign.config.signatures import is_known, plugins, result, schema
from neuralign.workflow.provenance import recipes
from neuralign.workflow.provenance.recipes import Recipes

MINE = '''from neuralign.common.quantities import LOSS, Quantity
from neuralign.config.options import Count, Positive
from neuralign.datasets.dataset import ArrayDataset, Dataset
from neuralign.symmetry.permutations import identity

import shared
{top}
METRICS = (Quantity(LOSS, "loss"),)


def images(cache, *, side: Count) -> Dataset:
    return shared.rows(side)

def table(cache, *, rows: Count = 3) -> ArrayDataset:
    return shared.rows(rows)

def still(problem, *, images: Count = 10):
    """Leaves all units where they are.

    Args:
        images: Not looked at.
    """
    return identity(problem.trace.spec)

def attack(predict, pixels, labels, generator, *, eps: Positive): return pixels
def augment(batch): return lambda images: images
def schedule(epoch, epochs, *, factor: Positive = 0.5): return factor
def objective(): return None
def optimiser(*, lr_scale: Positive = 1.0): return None
def cohort(cohort): return ()
def curve(t, *, bends: Count = 1): return t
def repair(merge): return {{}}
'''
WRONG = """def swapped(problem, others): return {}
def loose(problem, images=10): return {}
def open_ended(problem, **options): return {}
def strange(problem, *, size: np.ndarray): return {}
def computed(problem, *, size: int = 2 * K): return {}
def underscored(problem, *, _size: int = 2): return {}
def silent(cache): return None
def taken(predict, pixels, labels, generator, *, overrides: int = 1): return pixels
assigned = taken
"""
FITTING = {
    "datasets": "images",
    "attacks": "attack",
    "augmentations": "augment",
    "schedules": "schedule",
    "objectives": "objective",
    "optimisers": "optimiser",
    "alignments": "still",
    "cohorts": "cohort",
    "curves": "curve",
    "repairs": "repair",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory with plug-ins in mine.py, which imports shared.py; nothing known of before is remembered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write()
    known_plugins._entry_points.cache_clear()
    yield
    known_plugins._entry_points.cache_clear()
    for name in ("shared", "mine"):
        sys.modules.pop(name, None)


def write(top: str = "") -> None:
    Path("mine.py").write_text(MINE.format(top=top))
    Path("wrong.py").write_text(WRONG)
    Path("shared.py").write_text("def rows(count):\n    return list(range(count))\n")


def install(name: str, requires: str = "neuralign", **points: str) -> None:
    """An installed package in the working directory with entry points {kind: name = object}."""
    folder = Path(f"{name}-1.0.dist-info")
    folder.mkdir()
    folder.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: {requires}\n"
    )
    folder.joinpath("entry_points.txt").write_text(
        "".join(f"[neuralign.{k}]\n{point}\n" for k, point in points.items())
    )
    sys.path.insert(0, str(Path.cwd())) if str(Path.cwd()) not in sys.path else None
    known_plugins._entry_points.cache_clear()


def refused(path: str, value: object) -> list[str]:
    with pytest.raises(ConfigError) as error:
        Catalogue(changed(path, value))
    return error.value.problems


def test_every_kind_that_the_config_names_may_come_from_outside():
    assert FITTING.keys() == KINDS.keys() - {"networks", "figures"}


@pytest.mark.parametrize("kind", FITTING)
@pytest.mark.parametrize("where", ["./mine.py", "mine.py", "mine"])
def test_a_plug_in_is_found_by_its_file_or_module_with_the_options_of_its_signature(kind, where):
    use = f"{where}:{FITTING[kind]}"
    assert is_known(kind, use) and use not in plugins(kind)
    fields = schema(kind, use).model_fields
    assert "shared" not in sys.modules, "the signature is read without importing the file"
    values = {name: 1 for name, field in fields.items() if field.is_required()}
    assert plugin(kind, {"use": use, **values}).func.__name__ == FITTING[kind]


def test_options_have_types_defaults_and_descriptions():
    field = schema("alignments", "mine.py:still").model_fields["images"]
    assert field.default == 10 and field.description == "Not looked at."
    assert Catalogue(changed("alignments.correlation", {"use": "mine.py:still"})).entry(
        "alignments", "correlation"
    ) == {
        **{"use": "mine.py:still", "images": 10, "start": None},
        **{"augmented": False, "attacked": False, "attention": False},
    }
    (problem,) = refused("alignments.correlation", {"use": "mine.py:still", "imags": 3})
    assert problem.startswith("alignments.correlation: unknown key 'imags'; did you mean 'images'?")
    (problem,) = refused("alignments.correlation", {"use": "mine.py:still", "images": 0})
    assert problem.startswith("alignments.correlation.images: found 0: ")


@pytest.mark.parametrize(
    ("kind", "use", "message"),
    [
        ("alignments", "nowhere.py:still", "nowhere.py:still: no such file as "),
        ("alignments", "mine.py:stil", "mine.py:stil: mine.py does not define 'stil'; did you mean 'still'?"),
        ("alignments", "no_such_module:still", "no module 'no_such_module' on sys.path or in"),
        (
            "alignments",
            "wrong.py:assigned",
            "wrong.py: assigned is not defined there by `def`, so its options cannot be",
        ),
        (
            "alignments",
            "wrong.py:swapped",
            "wrong.py, line 1: found swapped(problem, others); a plug-in of alignments is called as swapped(problem, "
            "*, option, ...), with its options by keyword only",
        ),
        ("alignments", "wrong.py:loose", "wrong.py, line 2: found loose(problem, images=10); a plug-in of"),
        ("alignments", "wrong.py:open_ended", "wrong.py, line 3: found open_ended(problem, **options); a plug-in"),
        (
            "alignments",
            "wrong.py:strange",
            "wrong.py, line 4: found the option `size: np.ndarray`; a type of neuralign.config.options or of Python, "
            "and a constant as its default, are needed (NameError)",
        ),
        ("alignments", "wrong.py:computed", "wrong.py, line 5: found the option `size: int = 2 * K`; a type of"),
        ("alignments", "wrong.py:underscored", "wrong.py, line 6: options fit no config: "),
        (
            "datasets",
            "wrong.py:silent",
            "wrong.py, line 7: silent must say what it returns, `-> Dataset` of images or `-> ArrayDataset`; found no "
            "annotation",
        ),
        (
            "attacks",
            "wrong.py:taken",
            "wrong.py:taken: its option 'overrides' has the name of a key of all attacks; it",
        ),
        (
            "attacks",
            "mine.py:still",
            "mine.py, line 17: found still(problem, *, images: Count=10); a plug-in of attacks",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_line(kind, use, message):
    name = next(iter(SMALL[kind]))
    (problem,) = refused(f"{kind}.{name}", {"use": use})
    assert problem.startswith(f"{kind}.{name}.use: ") and message in problem


def test_a_file_that_does_not_parse_is_refused_by_its_line():
    write(top="def broken(:\n")
    (problem,) = refused("alignments.correlation", {"use": "mine.py:still"})
    assert "mine.py: invalid syntax (" in problem and "line 7)" in problem


def test_an_error_of_an_import_is_one_line():
    write(top="raise RuntimeError('no licence')")
    assert Catalogue(changed("alignments.correlation", {"use": "mine.py:still"})), "nothing is imported"
    with pytest.raises(ObjectError, match="^mine.py:still: cannot be imported: RuntimeError: no licence$"):
        plugin("alignments", {"use": "mine.py:still"})


# ---- objectives and datasets, whose files are read at planning


def test_an_objective_says_in_its_file_what_it_measures():
    assert metrics_of("mine.py:objective").names == ["loss"]
    place = {"use": "mine.py:objective"}
    assert Catalogue(changed("regimes.standard.objective", place)).entry("regimes", "standard")["objective"] == place


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "METRICS = (Quantity('a', 'b'),)",
            "mine.py: found ['a']; needed is METRICS, a tuple of Quantity, one of them of",
        ),
        ("METRICS = make()", "mine.py, line 8: NameError: name 'make' is not defined; needed is METRICS"),
        ("METRICS = ('loss',)", "mine.py, line 8: AttributeError: 'str' object has no attribute 'name'; needed is"),
        ("", "mine.py: found no METRICS, a tuple of Quantity, one of them of the name 'loss'"),
    ],
)
def test_an_objective_without_metrics_is_refused(written, message):
    Path("mine.py").write_text(MINE.format(top="").replace('METRICS = (Quantity(LOSS, "loss"),)', written))
    problems = refused("regimes.standard.objective", {"use": "mine.py:objective"})
    assert problems[0].startswith("regimes.standard.objective.use: ") and message in problems[0]


def test_what_a_dataset_returns_is_read_from_its_signature():
    assert result("datasets", "mine.py:images") == "Dataset" and result("datasets", "mine.py:table") == "ArrayDataset"
    problems = refused("datasets.digits", {"use": "mine.py:table", "augment": [{"use": "flip"}]})
    assert any("the plug-in mine.py:table makes other data, so [] is needed" in problem for problem in problems)


# ---- entry points


def test_an_entry_point_is_a_plug_in_with_a_name_of_its_own():
    install("theirs", alignments="still = mine:still")
    assert is_known("alignments", "still") and "still" not in plugins("alignments")
    entry = Catalogue(changed("alignments.still", {"images": 4})).entry("alignments", "still")
    assert plugin("alignments", {"use": entry["use"], "images": entry["images"]}).func is sys.modules["mine"].still
    (problem,) = refused("alignments.still", {"use": "stil"})
    assert "no such plug-in 'stil'; did you mean 'still'? (allowed: " in problem and problem.endswith(", still)")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("still = gone:still", "entry point 'still' of the package 'theirs': no module 'gone' on sys.path or in"),
        ("still = mine:gone", "entry point 'still' of the package 'theirs': mine:gone: mine.py does not define 'gone'"),
        ("still = wrong:swapped", "entry point 'still' of the package 'theirs': "),
        ("still = mine", "entry point 'still' of the package 'theirs': found 'mine'; `package.module:name` or"),
        (
            "pam = mine:still",
            "neuralign and the package 'theirs' both have a plug-in 'pam' of alignments; one has to be",
        ),
    ],
)
def test_a_wrong_entry_point_is_refused_by_its_package(point, message):
    install("theirs", alignments=point)
    (problem,) = refused("alignments.mine", {"use": point.split(" ")[0]})
    assert problem.startswith("alignments.mine.use: ") and message in problem


def test_two_packages_with_a_plug_in_of_the_same_name_are_refused():
    install("theirs", alignments="still = mine:still")
    install("others", alignments="still = mine:still")
    (problem,) = refused("alignments.mine", {"use": "still"})
    assert "the package 'others' and the package 'theirs' both have a plug-in 'still' of alignments" in problem


def test_an_entry_point_that_cannot_be_imported_fails_in_one_line():
    install("theirs", alignments="still = mine:still")
    write(top="import no_such_library")
    assert Catalogue(changed("alignments.still", {}))
    with pytest.raises(
        ObjectError, match="mine:still: cannot be imported: ModuleNotFoundError: No module named 'no_suc"
    ):
        plugin("alignments", {"use": "still"})


# ---- reruns


PLACE = {"dataset": "digits", "network": "tinyten", "regime": "standard"}
ALIGNMENT = ("align", PLACE | {"pair": "1-2", "alignment": "correlation"})


def code_of(rule: str, wildcards: dict[str, str], config: object = None) -> dict[str, str]:
    for remembered in (recipes.code, recipes.modules_used, known_plugins._entry_points):
        remembered.cache_clear()
    catalogue = Catalogue(config or changed("alignments.correlation", {"use": "mine.py:still"}))
    return Recipes.without_paths(catalogue).of(rule, wildcards)["code"]


def test_the_recipe_has_the_file_what_it_imports_beside_it_and_what_it_imports_of_this_package():
    code = code_of(*ALIGNMENT)
    assert {"mine.py", "shared.py", "neuralign.datasets.dataset"} <= code.keys()
    assert "neuralign.alignment.algorithms.correlation" not in code
    assert not {"mine.py", "shared.py"} & code_of("train_endpoint", PLACE | {"seed": "1"}).keys()
    write(top="from neuralign.alignment.algorithms import pam")
    other = Path("other.py")
    other.write_text(Path("mine.py").read_text())
    code = code_of(*ALIGNMENT, config=changed("alignments.correlation", {"use": "other.py:still"}))
    assert "neuralign.alignment.algorithms.pam" in code


def test_files_of_the_same_name_in_two_folders_both_count():
    for folder, bends in (("a", 1), ("b", 2)):
        Path(folder).mkdir()
        Path(folder, "mine.py").write_text(f"def curve(t): return {bends} * t\ndef schedule(epoch, epochs): return 1\n")
    config = changed("curves.bezier", {"use": "a/mine.py:curve"})
    for kind in ("endpoint", "curve"):
        config["regimes"]["standard"][kind]["schedule"] = {"use": "b/mine.py:schedule"}
    wildcards = PLACE | {"pair": "1-2", "alignment": "none", "curve": "bezier", "curve_seed": "1"}
    code = code_of("train_curve", wildcards, config)
    assert code["mine.py"] != code["mine.py of a/mine.py:curve"]


def test_of_an_installed_package_its_files_count_if_it_requires_this_one_else_its_version(monkeypatch):
    for name, requires in (("made_for_it", "neuralign>=0.1"), ("made_for_all", "numpy")):
        packages = Path("site-packages")
        packages.joinpath(name).mkdir(parents=True)
        packages.joinpath(name, "__init__.py").write_text("SIZE = 3\n")
        packages.joinpath(name, "plug.py").write_text("import torch\n\ndef still(problem): return {}\n")
        monkeypatch.chdir(packages)
        install(name, requires, alignments=f"{name} = {name}.plug:still")
        Path(f"{name}-1.0.dist-info", "top_level.txt").write_text(name)
        monkeypatch.chdir("..")
    code = code_of(*ALIGNMENT, config=changed("alignments.correlation", {"use": "made_for_it"}))
    assert {"made_for_it/__init__.py", "made_for_it/plug.py"} <= code.keys()
    assert not any(label.startswith("torch") for label in code)
    code = code_of(*ALIGNMENT, config=changed("alignments.correlation", {"use": "made_for_all"}))
    assert code["made_for_all"] == "1.0" and "made_for_all/plug.py" not in code


def test_planning_with_plug_ins_from_outside_imports_no_torch():
    code = (
        "import sys; from neuralign.config.signatures import schema\n"
        f"for kind, name in {FITTING}.items(): schema(kind, 'mine.py:' + name)\n"
        "assert not {'torch', 'numpy', 'mine', 'shared'} & sys.modules.keys(), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(PACKAGE.parent)})


# ---- the Python interface


def test_calls_take_plug_ins_from_outside():
    import neuralign as na

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    aligned = na.align(net, net.state_dict(), net.state_dict(), [torch.rand(5, 3)], "./mine.py:still", images=5)
    assert [p.tolist() for p in aligned.permutation.values()] == [[0, 1, 2, 3]]
    with pytest.raises(na.UserError, match="wrong.py, line 1: found swapped"):
        na.align(net, net.state_dict(), net.state_dict(), [torch.rand(5, 3)], "./wrong.py:swapped")
