"""Buffers and frozen parameters of every kind, in alignment, on lines and curves, in evaluation and in explanations.

Each property is a function `check_...`. The last tests replace parts of the library by wrong ones, which must fail it.
"""

import importlib.util
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pandas
import pytest
import state_zoo
import torch
from state_zoo import AVERAGED, COUNTED, FOLLOWING, INTERPOLATED, KEPT, KINDS, fresh, loaded, trained
from tiny import assert_same, pictures, plain
from torch import Tensor, nn
from torch.nn import functional as F

from neuralign import api
from neuralign.common.errors import UserError
from neuralign.common.tensors import save_tensors
from neuralign.config.plugins import plugin
from neuralign.curves import endpoints
from neuralign.curves.curve import straight_line
from neuralign.curves.endpoints import endpoints_of
from neuralign.curves.families.segment import segment
from neuralign.datasets.dataset import Dataset, Split
from neuralign.datasets.images import Images, as_float, as_is
from neuralign.datasets.storage import save as save_dataset
from neuralign.evaluation.along_curve import measure_curve
from neuralign.networks import buffer_updates, foreign_checkpoints, parameters
from neuralign.networks import model as networks
from neuralign.networks import states as network_states
from neuralign.networks.model import Model, buffers, canonical_names, trainable
from neuralign.networks.model import parameters as parameters_of
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.states import load_state, split_trainable
from neuralign.symmetry import certificate
from neuralign.symmetry.explain import explain
from neuralign.symmetry.tracing import execution
from neuralign.training import batch_norm
from neuralign.training.batch_norm import Estimate, refresh
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Regime

State = dict[str, Tensor]
IMAGES = pictures(count=24, side=8)
BATCH = 8  # equal batches, so that PyTorch's averages are weighted alike
AVERAGING = [name for name, kind in KINDS.items() if AVERAGED in kind.rest.values() and not kind.refused]


@pytest.fixture(scope="module")
def states() -> Callable[[str], tuple[State, State]]:
    """Two trained states of a kind."""
    known: dict[str, tuple[State, State]] = {}

    def of(name: str) -> tuple[State, State]:
        if name not in known:
            known[name] = trained(name, 1), trained(name, 2)
        return tuple({n: t.clone() for n, t in state.items()} for state in known[name])

    return of


def unnormalised(network: nn.Module) -> Model:
    return Model(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))


def line(name: str, ends: tuple[State, State], family: str = "segment", epochs: int = 0) -> Callable[[float], State]:
    return api.connect(fresh(name, 0), *ends, IMAGES, family, epochs=epochs, batch_size=BATCH)


def outputs(name: str, state: State, images: Images = IMAGES) -> Tensor:
    """The outputs of PyTorch's own network with a state."""
    with torch.no_grad():
        return loaded(name, state)(as_float(images.pixels))


def rest_of(name: str) -> dict[str, str]:
    """{name: expected treatment} of every tensor that is not trained."""
    network = fresh(name, 0)
    first = canonical_names(network)
    return {n: KINDS[name].rest[first[n]] for n in network.state_dict() if first[n] not in trainable(network)}


# the properties


def check_ends(name: str, path: Callable[[float], State], ends: tuple[State, State]) -> None:
    """At its ends a path equals the endpoints, as functions, and to the bit except for re-estimated statistics."""
    rest = rest_of(name)
    for t, end in zip((0.0, 1.0), ends, strict=True):
        actual = path(t)
        assert actual.keys() == end.keys() and all(actual[n].dtype == end[n].dtype for n in end)
        again = {n for n, how in rest.items() if how in (AVERAGED, COUNTED)}
        assert_same({n: actual[n] for n in end if n not in again}, {n: end[n] for n in end if n not in again})
        if not again:
            assert torch.equal(outputs(name, actual), outputs(name, end))


def check_between(name: str, path: Callable[[float], State], ends: tuple[State, State]) -> None:
    """Between its ends every tensor of a path is treated as `docs/states.md` says; on a line also the trained ones."""
    rest, (first, last) = rest_of(name), ends
    for t, nearest in ((0.25, first), (0.75, last)):
        actual = path(t)
        for n, value in actual.items():
            how = rest.get(n, INTERPOLATED)
            assert value.dtype == first[n].dtype
            if how == KEPT:
                assert torch.equal(value, nearest[n]), n
            elif how == INTERPOLATED:
                torch.testing.assert_close(value, (1 - t) * first[n] + t * last[n], msg=f"{name}: {n} at {t}")
        check_followers(name, actual, {n for n, how in rest.items() if how == FOLLOWING})
        check_statistics(name, actual)


def check_followers(name: str, state: State, names: set[str]) -> None:
    """Spectral norm divides by the largest singular value of the weight at this point."""
    if names:
        assert all(state[n].norm() == pytest.approx(1, abs=1e-4) for n in names)
        network = loaded(name, state)
        with torch.no_grad():
            network(as_float(IMAGES.pixels[:2]))
            assert torch.linalg.matrix_norm(network.two.weight.flatten(1), 2) == pytest.approx(1, abs=1e-3)


def check_statistics(name: str, state: State) -> None:
    """Running statistics are averages over all calls on the images and do not depend on their old values."""
    averaged = {n for n, how in rest_of(name).items() if how == AVERAGED}
    network = loaded(name, state)
    seen: dict[str, list[Tensor]] = {n: [] for n in averaged}

    def note(prefix: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for n in (n for n in averaged if n.rpartition(".")[0] == prefix):
                seen[n].append(statistic(module, n.rpartition(".")[2], inputs[0]))

        return hook

    for prefix in {n.rpartition(".")[0] for n in averaged}:
        module = network.get_submodule(prefix)
        module.training = True
        module.register_forward_pre_hook(note(prefix))
    with torch.no_grad():
        for pixels, _ in Estimate.on(IMAGES, as_is, batch_size=BATCH, seed=0).sample():
            network(pixels)
    for n in averaged:
        torch.testing.assert_close(state[n], torch.stack(seen[n]).mean(0), rtol=1e-4, atol=1e-5, msg=f"{name}: {n}")
    for n in (n for n, how in rest_of(name).items() if how == COUNTED and "instance" not in name):
        assert state[n] == len(seen[n.replace("num_batches_tracked", "running_mean")])


def statistic(module: nn.Module, kind: str, x: Tensor) -> Tensor:
    """The statistic that one call of a norm measures, computed independently."""
    if isinstance(module, state_zoo.NormWithNorm):
        x = F.batch_norm(x, None, None, module.inner.weight, module.inner.bias, training=True).abs()
    if isinstance(module, nn.InstanceNorm2d):
        return (x.mean((2, 3)) if kind == "running_mean" else x.var((2, 3))).mean(0)
    if kind == "scale":
        return x.square().mean((0, 2, 3))
    return x.mean((0, 2, 3)) if kind == "running_mean" else x.var((0, 2, 3))


def check_evaluated(name: str, ends: tuple[State, State]) -> None:
    """Rows "stored" of an evaluation are those of the endpoints; the others have re-estimated statistics."""
    model = unnormalised(fresh(name, 0))
    divided = endpoints_of(model, ends, as_float(IMAGES.pixels))
    estimate = Estimate.on(IMAGES, plain, batch_size=BATCH, seed=0)
    curve, ts = straight_line(segment, *divided.vectors), [0.0, 0.5, 1.0]
    rows = list(measure_curve(model, curve, divided, ts, estimate, IMAGES, {"clean": None}, batch_size=BATCH, seed=0))
    for t, end in zip((0.0, 1.0), ends, strict=True):
        losses = {row["statistics"]: row["loss"] for row in rows if row["t"] == t}
        assert losses["stored"] == pytest.approx(F.cross_entropy(outputs(name, end), IMAGES.labels).item(), rel=1e-5)
        if AVERAGED not in KINDS[name].rest.values():
            assert losses["reestimated"] == losses["stored"]
    middle = line(name, ends)(0.5)
    actual = next(row["loss"] for row in rows if row["t"] == 0.5)
    assert actual == pytest.approx(F.cross_entropy(outputs(name, middle), IMAGES.labels).item(), rel=1e-4)


def check_evaluated_between(name: str, path: Callable[[float], State], ends: tuple[State, State]) -> None:
    """The same as `check_evaluated`, as a property of a path."""
    check_evaluated(name, ends)


def check_trained_curve(name: str, path: Callable[[float], State], ends: tuple[State, State]) -> None:
    """Training a curve changes the trainable parameters and nothing else."""
    check_ends(name, path, ends)
    rest, middle = rest_of(name), path(0.25)
    for n, (a, b) in {n: (ends[0][n], ends[1][n]) for n in ends[0]}.items():
        straight = 0.75 * a + 0.25 * b
        if rest.get(n) == INTERPOLATED:
            torch.testing.assert_close(middle[n], straight)
        elif rest.get(n) == KEPT:
            assert torch.equal(middle[n], a)
    moved = [
        n for n in ends[0] if n not in rest and not torch.allclose(middle[n], ends[0][n] * 0.75 + ends[1][n] * 0.25)
    ]
    assert "head.bias" in moved


def check_frozen(name: str) -> None:
    """Training changes no frozen parameter, whether the layout holds all parameters or the trainable ones."""
    for divided in (False, True):
        network = fresh(name, 3)
        before = {n: p.detach().clone() for n, p in network.named_parameters()}
        model = unnormalised(network)
        laid_out, rest = parameters_of(network), buffers(network)
        if divided:
            laid_out, rest = split_trainable(model, {**laid_out, **rest})
        layout = FlatLayout.of(laid_out)
        regime = Regime(2, BATCH, 0.05, 0.9, 5e-4, plugin("schedules", {"use": "constant"}))
        arguments = (model, layout.flatten(laid_out), lambda weights, _: weights, layout, rest, IMAGES, regime)
        progress = fit(Training(*arguments, transform=as_is, seed=1))
        after = {**layout.views(progress.trainable.detach()), **progress.buffers}
        moved = {n for n, b in before.items() if not torch.equal(after[n], b)}
        assert moved == trainable(network)


# the properties hold


def test_equal_tensors_are_interpolated_too_between_states_that_are_not_yet_permuted(states):
    model, ends = unnormalised(fresh("same backbone", 0)), states("same backbone")
    assert "one.weight" not in endpoints_of(model, ends, as_float(IMAGES.pixels)).layout.shapes
    actual = endpoints_of(model, ends, as_float(IMAGES.pixels), keep_equal=False).layout
    assert actual.untrained == {"one.weight", "one.bias"} <= actual.shapes.keys()


@pytest.mark.parametrize("name", KINDS)
def test_the_ends_of_a_line_are_the_endpoints(name, states):
    ends = states(name)
    if name == "read by its parent":
        with pytest.raises(UserError) as refusal:
            line(name, ends)(0.0)
        assert KINDS[name].refused in str(refusal.value)
        return
    check_ends(name, line(name, ends), ends)


@pytest.mark.parametrize("name", KINDS)
def test_between_the_ends_every_tensor_is_treated_as_documented(name, states):
    path = line(name, states(name))
    if KINDS[name].refused:
        with pytest.raises(UserError) as refusal:
            path(0.5)
        assert str(refusal.value) == KINDS[name].refused
        return
    check_between(name, path, states(name))


@pytest.mark.parametrize("name", KINDS)
def test_a_trained_curve_changes_only_trainable_parameters(name, states):
    ends = states(name)
    if KINDS[name].refused and name != "read by its parent":
        with pytest.raises(UserError) as refusal:
            line(name, ends, "bezier", 1)
        assert str(refusal.value) == KINDS[name].refused
        return
    path = line(name, ends, "bezier", 1)
    if name != "read by its parent":
        check_trained_curve(name, path, ends)


@pytest.mark.parametrize("name", KINDS)
def test_an_evaluation_begins_and_ends_with_the_endpoints(name, states):
    if KINDS[name].refused:
        with pytest.raises(UserError) as refusal:
            check_evaluated(name, states(name))
        assert KINDS[name].refused in str(refusal.value)
        return
    check_evaluated(name, states(name))


@pytest.mark.parametrize("name", KINDS)
def test_a_path_changes_no_argument(name, states):
    ends, network, images = states(name), fresh(name, 0), pictures(count=24, side=8)
    before = [{n: t.clone() for n, t in state.items()} for state in (*ends, network.state_dict(), {"x": images.pixels})]
    modes = [module.training for module in network.modules()]
    path = api.connect(network, *ends, images, "segment", epochs=0, batch_size=BATCH)
    for t in (0.0, 1.0) if KINDS[name].refused else (0.0, 0.3, 1.0):
        if name != "read by its parent":
            path(t)
    if name in AVERAGING:
        refresh(unnormalised(network), parameters_of(network), buffers(network), images.batches(BATCH))
    for actual, expected in zip((*ends, network.state_dict(), {"x": images.pixels}), before, strict=True):
        assert_same(actual, expected)
    assert [module.training for module in network.modules()] == modes
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_alignment_keeps_the_function_and_changes_no_argument(name, states):
    target, source = states(name)
    network = fresh(name, 0)
    before = [{n: t.clone() for n, t in state.items()} for state in (target, source, network.state_dict())]
    actual = api.align(network, target, source, IMAGES, "correlation")
    assert actual.certificate < 1e-9
    new = pictures(count=7, side=8, seed=5)
    torch.testing.assert_close(outputs(name, actual.state, new), outputs(name, source, new), rtol=1e-4, atol=1e-4)
    for state, expected in zip((target, source, network.state_dict()), before, strict=True):
        assert_same(state, expected)


@pytest.mark.parametrize("name", KINDS)
def test_explanations_are_certified(name):
    network = fresh(name, 0)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    actual = explain(network, torch.rand(2, 3, 8, 8))
    assert actual["certified"] and (actual["groups"] or actual["frozen"])
    assert_same(network.state_dict(), before)


FROZEN = ["frozen backbone", "same backbone", "only biases", "frozen gain", "frozen batch norm", "complex"]


@pytest.mark.parametrize("name", FROZEN)
def test_training_does_not_change_frozen_tensors(name):
    check_frozen(name)


@pytest.mark.parametrize("name", ["batch norm", "own norm", "own statistic", "norm with a norm"])
def test_training_moves_the_statistics_of_norms_also_where_they_are_assigned_anew(name):
    network = fresh(name, 3)
    before = buffers(network)
    layout = FlatLayout.of(parameters_of(network))
    flat = layout.flatten(parameters_of(network))
    regime = Regime(1, BATCH, 0.05, 0.9, 0.0, plugin("schedules", {"use": "constant"}))
    arguments = (unnormalised(network), flat, lambda weights, _: weights, layout, before, IMAGES, regime)
    after = fit(Training(*arguments, transform=as_is, seed=1)).buffers
    averaged = {n for n, how in KINDS[name].rest.items() if how == AVERAGED}
    assert averaged and not any(torch.equal(after[n], before[n]) for n in averaged)
    assert_same(before, buffers(network))


@pytest.mark.parametrize("name", ["complex", "complex constant"])
def test_complex_tensors_are_read_from_checkpoints_and_real_ones_in_their_place_are_refused(name, states, tmp_path):
    state, model = states(name)[0], unnormalised(fresh(name, 0))
    torch.save(state, tmp_path / "a.pt")
    assert_same(foreign_checkpoints.read(tmp_path / "a.pt", model).state, state)
    save_tensors(state, tmp_path / "a.safetensors")
    assert_same(load_state(str(tmp_path / "a.safetensors"), model), state)
    (complex_name,) = (n for n, t in state.items() if t.is_complex())
    torch.save(state | {complex_name: state[complex_name].real}, tmp_path / "b.pt")
    with pytest.raises(UserError, match=rf"{complex_name} is torch.float32, the network's is torch.complex64"):
        foreign_checkpoints.read(tmp_path / "b.pt", model)


def test_images_stay_real_where_the_first_parameter_is_complex(states):
    class Front(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain, self.head = nn.Parameter(torch.ones(3, 8, 5, dtype=torch.complex64)), nn.Linear(3, 5)

        def forward(self, x):
            return self.head(torch.fft.irfft2(torch.fft.rfft2(x) * self.gain).mean((2, 3)))

    network = Front()
    path = api.connect(network, network.state_dict(), network.state_dict(), IMAGES, "segment", epochs=0)
    assert_same(path(1.0), dict(network.state_dict()))


# the scripts that open a path: planes, midpoints, the bound


SCRIPTS = Path(__file__).parents[2] / "scripts"
MODEL = {"input_size": None, "normalise": False, "mean": None, "std": None}
PROTOCOL = {"points": 3, "batch_size": BATCH, "seed": 0, "images": None, "full_passes": None}


def script(name: str) -> Callable[..., None]:
    """The `main` of a script."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def written(folder: Path, ends: tuple[State, State]) -> dict[str, str]:
    """Prepared data and two endpoints on disk: arguments of the scripts of a path."""
    splits = (Split(i.pixels.numpy(), i.labels.numpy()) for i in (IMAGES, IMAGES))
    save_dataset(Dataset(*splits, tuple("abcde")), folder / "data.safetensors")
    paths = {name: str(folder / f"{name}.safetensors") for name in ("data", "target", "source")}
    for name, state in zip(("target", "source"), ends, strict=True):
        save_tensors(state, paths[name])
    return paths


def test_every_script_of_a_path_begins_and_ends_with_the_endpoints(tmp_path, states):
    ends = states("frozen batch norm")
    arguments = written(tmp_path, ends) | {"model": MODEL | {"network": {"use": "state_zoo:frozen_batch_norm"}}}
    losses = [F.cross_entropy(outputs("frozen batch norm", end), IMAGES.labels).item() for end in ends]
    out = {name: str(tmp_path / name) for name in ("bends.safetensors", "history", "points", "grid", "marks", "middle")}
    training = {"epochs": 1, "batch_size": BATCH, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0}
    training |= {"schedule": {"use": "constant"}, "nesterov": True}
    curve, bends = {"use": "bezier"}, out["bends.safetensors"]
    script("train_curve")(
        **arguments,
        **{"bends": bends, "history": out["history"], "training": training, "attack": None, "augment": []},
        **{"curve": curve, "seed": 0, "scratch": tmp_path / "scratch"},
    )
    common = arguments | {"curve": curve, "augment": [], "bends": bends}
    script("evaluate")(**common, points=out["points"], attacks={}, protocol=PROTOCOL | {"attacked_statistics": None})
    rows = pandas.read_csv(out["points"])
    for t, loss in zip((0.0, 1.0), losses, strict=True):
        assert rows[rows["t"] == t]["loss"].tolist() == pytest.approx([loss] * 2, rel=1e-5)
    window = {"t1": [0.0, 1.0], "t2": [0.0, 1.0]}
    script("plane")(**common, grid=out["grid"], marks=out["marks"], window=window, protocol=PROTOCOL)
    places = pandas.read_csv(out["grid"]).set_index(["t1", "t2"])["loss"]
    assert [places[0.0, 0.0], places[1.0, 0.0]] == pytest.approx(losses, rel=1e-5)
    protocol = {k: PROTOCOL[k] for k in ("batch_size", "seed", "images", "full_passes")}
    script("midpoint")(**common, midpoint=out["middle"], protocol=protocol)
    assert set(pandas.read_csv(out["middle"])["end"]) == {"start", "end"}


def test_a_script_refuses_a_path_between_masks_that_differ(tmp_path, states):
    arguments = written(tmp_path, states("mask at random")) | {
        "model": MODEL | {"network": {"use": "state_zoo:masked"}}
    }
    with pytest.raises(UserError) as refusal:
        script("bound")(**arguments, bound=str(tmp_path / "bound"), layers=str(tmp_path / "layers"))
    assert str(refusal.value) == KINDS["mask at random"].refused


# wrong implementations fail the properties


def buffers_of_the_first_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """All untrained tensors are those of the first end, along the whole path."""
    right = endpoints.endpoints_of

    def wrong(model: Model, states: tuple[State, State], pixels: Tensor) -> endpoints.Endpoints:
        trains, (first, last) = trainable(model.network), states
        return right(model, (first, {n: t if n in trains else first[n] for n, t in last.items()}), pixels)

    monkeypatch.setattr(api, "endpoints_of", wrong)


def stored_statistics_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics are not re-estimated."""
    monkeypatch.setattr(api, "refresh", lambda model, point, buffers, batches: buffers)


def only_batch_norms_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms that are not PyTorch's own are not recognised."""
    monkeypatch.setattr(buffer_updates, "_try_modules", lambda *_: None)


def tried_on_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms are tried on images and on their negatives."""
    monkeypatch.setattr(buffer_updates, "_other_inputs", lambda pixels: 1 - pixels)


def last_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several calls of a norm in a pass, only the last counts."""
    right = batch_norm._Averages._hooks

    def wrong(self, i, norm):
        before, after = right(self, i, norm)

        def forgetful(module, inputs):
            self.seen_so_far[i] = self.seen[i]
            before(module, inputs)

        return forgetful, after

    monkeypatch.setattr(batch_norm._Averages, "_hooks", wrong)


def requires_grad_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """`requires_grad` is ignored."""
    for module in (endpoints, network_states):
        monkeypatch.setattr(module, "trainable", lambda network: {n for n, _ in network.named_parameters()})


def real_parts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Complex tensors lose their imaginary parts in the flat vector."""
    right = parameters._flatten
    monkeypatch.setattr(parameters, "_flatten", lambda t: right(t.real.to(t.dtype) if t.is_complex() else t))


def followers_of_the_nearest_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that follow the weights are those of the nearest end."""
    monkeypatch.setattr(endpoints.Endpoints, "updated_from_weights", lambda self, state: {})


def caches_that_survive_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python attributes that cache results are not reset between evaluations."""
    for module in (networks, execution, certificate):
        monkeypatch.setattr(module, "preserved_attributes", lambda modules: nullcontext(lambda: None))


WRONG = [
    (buffers_of_the_first_end, "frozen batch norm", check_ends),
    (buffers_of_the_first_end, "pruned at random", check_ends),
    (buffers_of_the_first_end, "spectral norm", check_ends),
    (buffers_of_the_first_end, "frozen backbone", check_ends),
    (stored_statistics_everywhere, "batch norm", check_between),
    (stored_statistics_everywhere, "synchronised", check_between),
    (stored_statistics_everywhere, "own norm", check_between),
    (only_batch_norms_of_torch, "own norm", check_between),
    (last_call_only, "shared", check_between),
    (tried_on_negatives, "norm of a pooled map", check_between),
    (requires_grad_ignored, "frozen backbone", check_trained_curve),
    (real_parts_only, "complex", check_ends),
    (followers_of_the_nearest_end, "spectral norm", check_between),
    (caches_that_survive_a_run, "cached", check_evaluated_between),
    (caches_that_survive_a_run, "remembering", check_evaluated_between),
]


@pytest.mark.parametrize("name", ["spectral norm", "old spectral norm"])
def test_a_power_iteration_that_has_arrived_follows_the_weights(name, states):
    def arrived(state: State) -> State:
        network = loaded(name, state).double().train()
        with torch.no_grad():
            for _ in range(2000):
                network(as_float(IMAGES.pixels[:2]).double())
        return {n: t.clone() for n, t in network.state_dict().items()}

    ends = tuple(map(arrived, states(name)))
    followers = {n for n, how in rest_of(name).items() if how == FOLLOWING}
    example = as_float(IMAGES.pixels[:4]).double()
    for model_ends in (ends, ends[::-1]):
        divided = endpoints_of(Model(fresh(name, 0).double(), None, None), model_ends, example)
        assert set(divided.from_weights) == followers


def test_on_a_plane_a_network_is_a_state_only_if_it_has_nothing_of_the_others(states):
    name = "old spectral norm"
    ends = (*states(name), {n: 2 * t for n, t in states(name)[0].items()})
    divided = endpoints_of(unnormalised(fresh(name, 0)), ends, as_float(IMAGES.pixels[:4]))
    first, second, third = divided.vectors
    state = divided.state_at(third + (second - first) / 2, (-0.5, 0.5, 1.0))
    near = divided.state_at(third + (second - first) / 2, (-0.5, 0.5 + 1e-9, 1.0 - 1e-9))
    assert_same(state, near)
    assert_same(divided.state_at(third, (0.0, 0.0, 1.0)), {n: ends[2][n] for n in state})


@pytest.mark.parametrize(("wrong", "name", "check"), WRONG, ids=[f"{w.__name__} {name}" for w, name, _ in WRONG])
def test_a_wrong_implementation_fails(wrong, name, check, states, monkeypatch):
    ends = states(name)
    epochs = int(check is check_trained_curve)
    check(name, line(name, ends, "bezier", epochs), ends)
    wrong(monkeypatch)
    with pytest.raises((AssertionError, UserError, ValueError)):
        check(name, line(name, ends, "bezier", epochs), ends)


def test_an_end_that_is_another_function_is_refused_where_a_path_is_opened(states, monkeypatch):
    first, last = states("frozen batch norm")
    model = unnormalised(fresh("frozen batch norm", 0))
    right = FlatLayout.flatten
    monkeypatch.setattr(
        FlatLayout, "flatten", lambda self, tensors: right(self, {**tensors, "head.bias": first["head.bias"]})
    )
    with pytest.raises(UserError, match="end 2 of the path computes another function than its network: outputs"):
        endpoints_of(model, (first, last), as_float(IMAGES.pixels))


def test_a_family_of_curves_that_does_not_meet_its_ends_is_refused():
    message = (
        "this family of curves does not meet its endpoints: at t = 1 the weights of the control points are [0.5, 0.5], "
        "but all weight must be on number 2"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        straight_line(lambda t: torch.stack([1 - t / 2, t / 2]), torch.zeros(3), torch.ones(3))


def test_a_network_of_which_nothing_trains_has_lines_and_no_curves(states):
    network, ends = fresh("batch norm", 0).requires_grad_(False), states("batch norm")
    middle = api.connect(network, *ends, IMAGES, "bezier", epochs=0)(0.5)
    torch.testing.assert_close(middle["one.weight"], (ends[0]["one.weight"] + ends[1]["one.weight"]) / 2)
    with pytest.raises(UserError, match="no parameter of the network requires gradients"):
        api.connect(network, *ends, IMAGES, "bezier", epochs=1)
