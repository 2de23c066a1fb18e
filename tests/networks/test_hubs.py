"""Networks and checkpoints named after hubs, with caches in the layout of the hubs and without a network."""

import hashlib
import json
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hostile_configs import changed
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from neuralign.common.errors import UserError
from neuralign.common.files import PACKAGE
from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.config.checking import hub_names
from neuralign.config.references import is_foreign, is_hub, is_object
from neuralign.datasets.dataset import Dataset, Split
from neuralign.datasets.storage import save
from neuralign.networks import foreign_checkpoints
from neuralign.networks.foreign_networks import NetworkError, construct
from neuralign.networks.hubs import files, networks
from neuralign.networks.model import build
from neuralign.networks.setup import load_data_and_model
from neuralign.workflow.provenance import recipes
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.running.notes import origin

SCRIPTS = PACKAGE.parents[1] / "scripts"
OLD, NEW = "1" * 40, "2" * 40  # revisions
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
TIMM = {"architecture": "test_resnet", "num_classes": 4, "model_args": {"layers": [1, 1, 1, 1]}}
TIMM |= {"pretrained_cfg": {"mean": MEAN, "std": STD, "input_size": [3, 24, 24], "interpolation": "bicubic"}}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> Path:
    """An empty folder with the caches of both libraries; Hugging Face is offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    monkeypatch.setattr(files, "REVISIONS", {})
    networks.preparation.cache_clear()
    return tmp_path


def put(repository: str, contents: dict[str, bytes], revision: str = NEW, branch: str | None = "main") -> Path:
    """A snapshot of a repository as Hugging Face keeps it: files are links to blobs, branches files with a commit."""
    folder = Path("hub", f"models--{repository.replace('/', '--')}")
    snapshot = folder / "snapshots" / revision
    for name, content in contents.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        for path in (blob, snapshot / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    if branch:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / branch).write_text(revision)
    return snapshot


def safetensors(**tensors: torch.Tensor) -> bytes:
    save_file(tensors, "tensors")
    return Path("tensors").read_bytes()


def pickled(content: object) -> bytes:
    torch.save(content, "pickled")
    return Path("pickled").read_bytes()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state of the network of TIMM."""
    torch.manual_seed(seed)
    return construct("timm/test_resnet", {"layers": [1, 1, 1, 1]}, 4, 3).state_dict()


# ---- names


@pytest.mark.parametrize("name", ["timm/resnet18", "hf-hub:me/net@v1:a/b.bin", "torchvision:ResNet18_Weights.DEFAULT"])
def test_names_of_hubs_are_no_objects(name):
    assert is_hub(name) and is_foreign(name) and not is_object(name)
    hub_names.check_name(name)
    assert is_object("torchvision.models:resnet18") and not is_foreign("./timm/a.pt")


def test_a_name_is_taken_apart():
    assert hub_names.parse("hf-hub:me/net@v1.0:a/b.bin") == ("hf-hub", "me/net", "", "v1.0", "a/b.bin")
    assert hub_names.parse("hf-hub:gpt2") == ("hf-hub", "gpt2", "", "", "")
    assert hub_names.parse("timm/resnet18.a1_in1k").with_tag == "resnet18.a1_in1k"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet81", "timm/resnet81: timm has no model 'resnet81'; did you mean 'resnet"),
        ("timm/a.pt", "timm has no model 'a'"),
        (
            "timm/my/a.pt",
            "found 'timm/my/a.pt'; timm/<model> or timm/<model>.<tag> is needed; a file in a folder of this",
        ),
        (
            "hf-hub:",
            "found 'hf-hub:'; hf-hub:<repository>, with @<revision> and :<file> behind it if need be, is needed",
        ),
        ("hf-hub:me/net:../../x", "found 'hf-hub:me/net:../../x'; hf-hub:<repository>"),
        ("hf-hub:me/net:a/../../x", "found 'hf-hub:me/net:a/../../x'; hf-hub:<repository>"),
        ("hf-hub:me/net@a/../../x", "found 'hf-hub:me/net@a/../../x'; hf-hub:<repository>"),
        ("torchvision:resnet18", "found 'torchvision:resnet18'; torchvision:<Model>_Weights.<name> is needed"),
        ("torchvision:ResNet81_Weights.DEFAULT", "torchvision has no ResNet81_Weights; did you mean 'ResNet"),
        ("torchvision:ResNet18_Weights.IMAGENET", "ResNet18_Weights has IMAGENET1K_V1, DEFAULT, and no IMAGENET"),
    ],
)
def test_a_wrong_name_is_refused_by_the_check_of_the_config(name, message):
    for path, value in (("networks.tinyten", {"use": name}), ("checkpoints", {"mine": {"file": name}})):
        with pytest.raises(ConfigError) as error:
            Catalogue(changed(path, value))
        (problem,) = error.value.problems
        key = "networks.tinyten.use: " if path == "networks.tinyten" else "checkpoints.mine.file: "
        assert problem.startswith(key) and message in problem


def test_a_network_is_named_without_a_file():
    with pytest.raises(ConfigError, match="hf-hub:me/net:a.bin: names the file a.bin; a network is named without one"):
        Catalogue(changed("networks.tinyten", {"use": "hf-hub:me/net:a.bin"}))


def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(hub_names, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^timm/resnet18: needs timm, which is not installed: pip install 'neuralign\[hub\]'$"
    ):
        hub_names.check_name("timm/resnet18")


def test_the_check_imports_no_library():
    code = (
        "import sys; from neuralign.config.checking.hub_names import check_network\n"
        "for name in ('timm/resnet18', 'hf-hub:me/net', 'torchvision:ResNet18_Weights.DEFAULT'): check_network(name)\n"
        "assert not {'torch', 'timm', 'torchvision', 'huggingface_hub'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(PACKAGE.parent)})


def test_all_models_of_timm_and_all_weights_of_torchvision_are_known():
    import timm
    import torchvision

    known = hub_names._timm_models(Path(timm.__file__).parent)
    assert set(timm.list_models()) <= known
    weights = hub_names._torchvision_weights(Path(torchvision.__file__).parent)
    for model in ("resnet50", "vit_b_16", "swin_t", "fcn_resnet50"):
        known_weights = torchvision.models.get_model_weights(model)
        assert [*known_weights.__members__] == weights[known_weights.__name__]


# ---- files


def test_safetensors_come_before_pickles_and_the_record_has_revision_and_digest():
    content = safetensors(weight=torch.ones(2))
    snapshot = put("me/net", {"model.safetensors": content, "pytorch_model.bin": pickled({"weight": torch.zeros(2)})})
    file = files.fetch("hf-hub:me/net")
    assert file.path.samefile(snapshot / "model.safetensors")
    assert file.record == {
        **{"name": "hf-hub:me/net", "repository": "me/net", "revision": NEW, "file": "model.safetensors"},
        "sha256": digest(content),
    }


def test_a_file_and_a_revision_may_be_named():
    old = pickled({"weight": torch.zeros(2)})
    put("me/net", {"sub/old.bin": old}, revision=OLD, branch="v1")
    put("me/net", {"sub/old.bin": b"other"})
    for revision in ("v1", OLD):
        record = files.fetch(f"hf-hub:me/net@{revision}:sub/old.bin").record
        assert (record["revision"], record["file"], record["sha256"]) == (OLD, "sub/old.bin", digest(old))


def test_shards_are_those_of_the_same_revision():
    index = json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}).encode()
    shards = {f"{name}.safetensors": safetensors(**{name: torch.ones(2)}) for name in "ab"}
    put("me/net", {"model.safetensors.index.json": index, **shards})
    file = files.fetch("hf-hub:me/net")
    assert file.record["shards"] == {name: digest(content) for name, content in shards.items()} | {
        "model.safetensors.index.json": digest(index)
    }
    (file.path.parent / "b.safetensors").unlink()
    with pytest.raises(
        UserError, match=f"of the repository me/net at {NEW} b.safetensors is not in the cache .*/hub, and"
    ):
        files.fetch("hf-hub:me/net")


@pytest.mark.parametrize("name", ["hf-hub:me/net", "hf-hub:me/other@v2:x.bin"])
def test_what_is_not_in_the_cache_is_named_with_the_cache(name):
    put("me/net", {"config.json": b"{}"})
    with pytest.raises(UserError) as error:
        files.fetch(name)
    wanted = "x.bin" if ":x.bin" in name else "model.safetensors or model.safetensors.index.json or pytorch_model.bin"
    assert wanted in str(error.value) and str(Path("hub").absolute()) in str(error.value)
    assert str(error.value).endswith("and HF_HUB_OFFLINE forbids to ask the hub") and "\n" not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    from huggingface_hub import errors, file_download

    def unreachable(*arguments, **more):
        raise errors.OfflineModeIsEnabled("no route")  # which the library treats like every error of a connection

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(file_download, "get_hf_file_metadata", unreachable)
    with pytest.raises(
        UserError, match="^hf-hub:me/net: .* is not in the cache .*/hub, and the hub could not be reached$"
    ):
        files.fetch("hf-hub:me/net")
    put("me/net", {"model.safetensors": safetensors(weight=torch.ones(2))})
    assert files.fetch("hf-hub:me/net").record["revision"] == NEW, "what is in the cache is used"


def test_other_errors_of_a_hub_are_one_line_too(monkeypatch):
    from huggingface_hub import file_download

    def refuses(*arguments, **more):
        raise RuntimeError("the proxy refuses\nand says more")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(file_download, "get_hf_file_metadata", refuses)
    with pytest.raises(UserError, match="^hf-hub:me/net: the repository me/net cannot be read: the proxy refuses$"):
        files.fetch("hf-hub:me/net")


def test_an_address_is_looked_for_in_the_cache_of_torch(monkeypatch):
    content = pickled({"weight": torch.ones(2)})
    name = f"net-{digest(content)[:8]}.pth"
    path = Path("torch", "checkpoints", name)
    address = f"file://{Path('gone').absolute()}/{name}"
    with pytest.raises(
        UserError, match=f"^mine: {name} is not in the cache .*/torch/checkpoints, and could not be loaded"
    ):
        files._from_address("mine", address)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert files._from_address("mine", address).record["sha256"] == digest(content)
    path.write_bytes(b"other")
    with pytest.raises(
        UserError, match=f"{name}: damaged: its sha256 begins with .*, and not with {digest(content)[:8]}"
    ):
        files._from_address("mine", address)


def test_weights_of_timm_and_torchvision_are_looked_for_where_these_keep_them(monkeypatch):
    put("timm/test_resnet.r160_in1k", {"model.safetensors": safetensors(weight=torch.ones(2))})
    for name in ("timm/test_resnet", "timm/test_resnet.r160_in1k"):
        assert files.fetch(name).record["repository"] == "timm/test_resnet.r160_in1k"
    with pytest.raises(
        UserError, match="timm has no weights 'r16' of test_resnet; did you mean .* .its tags: r160_in1k"
    ):
        files.fetch("timm/test_resnet.r16")
    asked = []
    monkeypatch.setattr(files, "_from_address", lambda *arguments: asked.append(arguments))
    files.fetch("torchvision:ResNet18_Weights.DEFAULT")
    assert asked[0][1] == "https://download.pytorch.org/models/resnet18-f37072fd.pth"


def test_a_pickle_of_a_hub_is_not_executed():
    put("me/net", {"pytorch_model.bin": pickled({"weight": torch.nn.Linear(2, 2)})})
    model = build({"use": "timm/test_resnet", "options": {"layers": [1, 1, 1, 1]}}, classes=4, channels=3)
    with pytest.raises(
        UserError, match="pytorch_model.bin: holds a Python object .*, and loading it could execute code"
    ):
        foreign_checkpoints.read("hf-hub:me/net", model)


# ---- networks


def test_networks_have_the_classes_and_channels_of_the_data():
    put("me/net", {"config.json": json.dumps(TIMM).encode()})
    for use, options in (
        ("timm/test_resnet", {"layers": [1, 1, 1, 1]}),
        ("hf-hub:me/net", {}),
        ("torchvision:ResNet18_Weights.DEFAULT", {}),
    ):
        channels = 3 if use.startswith("torchvision") else 1
        assert construct(use, options, 5, channels).eval()(torch.zeros(2, channels, 32, 32)).shape == (2, 5)
    assert construct("hf-hub:me/net", {}, None, 3).num_classes == 4, "that of the repository"
    with pytest.raises(NetworkError, match="timm/test_resnet: called with .*unexpected keyword argument 'widht'"):
        construct("timm/test_resnet", {"widht": 3}, 5, 3)


def test_a_repository_without_a_network_of_timm_is_refused():
    put("me/net", {"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(UserError, match="hf-hub:me/net: its config.json names no `architecture` of timm"):
        construct("hf-hub:me/net", {}, 5, 3)
    for key, value, message in (
        ("architecture", "hf-hub:other/net", "timm has no|found 'timm/hf-hub:other/net'"),
        ("architecture", "resnt18", "timm/resnt18: timm has no model 'resnt18'; did you mean 'resnet18'"),
        ("model_args", {"checkpoint_path": "/a.pt"}, "has checkpoint_path in `model_args`, no argument of a network"),
    ):
        put("me/more", {"config.json": json.dumps(TIMM | {key: value}).encode()})
        with pytest.raises(UserError, match=f"hf-hub:me/more: its config.json:? .*({message})"):
            construct("hf-hub:me/more", {}, 5, 3)
        Path("hub/models--me--more/snapshots", NEW, "config.json").unlink()
    put("me/bad", {"config.json": b"[1]"})
    with pytest.raises(UserError, match="hf-hub:me/bad: its config.json holds a list; a mapping is needed"):
        construct("hf-hub:me/bad", {}, 5, 3)


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"config.json": TIMM}, (tuple(MEAN), tuple(STD), 24, "bicubic")),
        (
            {"preprocessor_config.json": {"image_mean": MEAN, "image_std": STD, "size": 30, "resample": 2}},
            (tuple(MEAN), tuple(STD), 30, "bilinear"),
        ),
        (
            {
                "preprocessor_config.json": {
                    "do_normalize": False,
                    "size": {"shortest_edge": 40},
                    "crop_size": {"height": 32, "width": 32},
                }
            },
            ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 32, None),
        ),
        ({"preprocessor_config.json": {"size": {"height": 30, "width": 40}}}, (None, None, None, None)),
    ],
)
def test_a_repository_says_how_images_are_prepared(contents, expected):
    contents = {"config.json": {"model_type": "any"}, **contents}
    put("me/net", {name: json.dumps(content).encode() for name, content in contents.items()})
    if "preprocessor_config.json" in contents:
        assert networks.preparation("hf-hub:me/net") == networks.Preparation(*expected)
    else:
        assert networks.preparation("hf-hub:me/net:model.safetensors") == networks.Preparation(*expected)


def test_timm_and_torchvision_say_it_too():
    of_imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert networks.preparation("torchvision:ResNet18_Weights.DEFAULT") == networks.Preparation(
        *of_imagenet, 224, "bilinear"
    )
    assert networks.preparation("timm/resnet18.a1_in1k") == networks.Preparation(*of_imagenet, 224, "bicubic")


# ---- jobs


@pytest.fixture
def data() -> str:
    """A dataset of 3 channels, 4 classes and 16 x 16 pixels, as the rule `fetch_data` writes it."""
    pixels = torch.randint(256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    splits = [Split(pixels[part], torch.arange(len(pixels[part])).numpy() % 4) for part in (slice(16), slice(16, 24))]
    save(Dataset(*splits, classes=tuple("abcd")), "data.safetensors")
    return "data.safetensors"


def settings(use: str, **more: object) -> dict[str, object]:
    network = {"use": use, "options": {"layers": [1, 1, 1, 1]} if use.startswith("timm/") else {}}
    return {"network": network, "input_size": None, "normalise": True, "mean": None, "std": None, **more}


def imported(data: str, model: dict[str, object], file: str) -> dict[str, object]:
    """What the script of the rule `import_endpoint` reports."""
    main = runpy.run_path(str(SCRIPTS / "import_endpoint.py"))["main"]
    return main(data, "network.safetensors", model=model, checkpoint={"file": file, "inside": None})


def test_what_the_hub_says_is_the_default(data):
    put("me/net", {"config.json": json.dumps(TIMM).encode(), "model.safetensors": safetensors(**weights())})
    images, model = load_data_and_model(data, settings("hf-hub:me/net"))
    assert model.mean.flatten().tolist() == pytest.approx(MEAN) and model.std.flatten().tolist() == pytest.approx(STD)
    assert images.train.pixels.shape[-2:] == (24, 24)
    bilinear, _ = load_data_and_model(data, settings("timm/test_resnet", input_size=24, mean=MEAN, std=STD))
    mine = {"mean": [0.1, 0.1, 0.1], "std": [0.5, 0.5, 0.5], "input_size": 20}
    images, model = load_data_and_model(data, settings("hf-hub:me/net", **mine))
    assert model.mean.flatten().tolist() == pytest.approx([0.1] * 3) and images.train.pixels.shape[-2:] == (20, 20)
    _, model = load_data_and_model(data, settings("hf-hub:me/net", normalise=False))
    assert model.mean.abs().sum() == 0


def test_an_import_reports_where_the_weights_are_from(data, caplog):
    content = safetensors(**weights())
    put("me/net", {"config.json": json.dumps(TIMM).encode(), "model.safetensors": content})
    reported = imported(data, settings("hf-hub:me/net"), "hf-hub:me/net")
    assert reported["checkpoint"]["revision"] == NEW and reported["checkpoint"]["sha256"] == digest(content)
    assert reported["warnings"] == [] and not caplog.records
    for name, tensor in load_file("network.safetensors").items():
        assert torch.equal(tensor, weights()[name])


def test_the_note_of_every_job_has_the_commit_that_a_name_without_one_stood_for(data):
    put("me/net", {"config.json": json.dumps(TIMM).encode()}, revision=OLD, branch="v1")
    assert "hub" not in origin()
    load_data_and_model(data, settings(f"hf-hub:me/net@{OLD}"))
    assert "hub" not in origin(), "a commit stands for itself"
    load_data_and_model(data, settings("hf-hub:me/net@v1"))
    assert origin()["hub"] == {"hf-hub:me/net@v1": OLD}


@pytest.mark.parametrize(
    ("use", "more", "file", "message"),
    [
        (
            "nets.py:net",
            {},
            "a.pt",
            "a.pt: the normalisation that it was trained with is not known, so pixels are normal",
        ),
        ("nets.py:net", {"mean": MEAN, "std": STD}, "a.pt", None),
        ("nets.py:net", {"normalise": False}, "a.pt", None),
        ("nets.py:net", {"mean": MEAN, "std": STD}, "hf-hub:me/net", None),
        (
            "nets.py:net",
            {"mean": STD, "std": STD},
            "hf-hub:me/net",
            f"hf-hub:me/net: was trained with mean {MEAN} and std {STD}, and the network gets mean {STD} and std {STD}",
        ),
        ("timm/test_resnet", {}, "a.pt", None),
        ("hf-hub:me/silent", {}, "a.pt", "a.pt: the normalisation that it was trained with is not known"),
        (
            "nets.py:net",
            {},
            "hf-hub:me/bare",
            "hf-hub:me/bare: the normalisation that it was trained with is not known",
        ),
    ],
)
def test_a_normalisation_that_is_not_known_is_a_warning(data, caplog, use, more, file, message):
    put("me/net", {"config.json": json.dumps(TIMM).encode(), "model.safetensors": safetensors(**weights())})
    silent = {key: value for key, value in TIMM.items() if key != "pretrained_cfg"}
    snapshot = put("me/silent", {"config.json": json.dumps(silent).encode()})
    put("me/bare", {"model.safetensors": safetensors(**weights())})
    absent = snapshot.parents[1] / ".no_exist" / NEW  # where the hub's library notes what a repository does not have
    absent.mkdir(parents=True)
    (absent / "preprocessor_config.json").touch()
    torch.save(weights(), "a.pt")
    Path("nets.py").write_text(
        "import timm\n\ndef net(num_classes):\n"
        "    return timm.create_model('test_resnet', num_classes=num_classes, layers=[1, 1, 1, 1])\n"
    )
    caplog.set_level(logging.WARNING, "neuralign")
    reported = imported(data, settings(use, **more), file)
    assert [record.getMessage() for record in caplog.records] == reported["warnings"]
    assert len(reported["warnings"]) == (message is not None)
    assert all(warning.startswith(message) for warning in reported["warnings"])


# ---- recipes


PLACE = {"dataset": "digits", "network": "tinyten", "regime": "standard"}


def recipe(use: str, file: str, rule: str = "import_endpoint") -> dict[str, object]:
    recipes.code.cache_clear()
    config = changed("networks.tinyten", {"use": use}) | {"checkpoints": {"mine": {"file": file}}}
    end = {"checkpoint": "mine"} if rule == "import_endpoint" else {"seed": "1"}
    return Recipes.without_paths(Catalogue(config)).of(rule, PLACE | end)


def test_a_recipe_names_the_checkpoint_and_the_version_of_the_library_and_does_not_download(caches):
    made = recipe("timm/test_resnet", "hf-hub:me/net@v1")
    assert made["code"]["timm"] and made["code"]["neuralign.networks.hubs.files"] and "source" not in made
    assert made["settings"]["checkpoint"]["file"] == "hf-hub:me/net@v1"
    assert made["key"] != recipe("timm/test_resnet", "hf-hub:me/net@v2")["key"]
    assert not (caches / "hub").exists()
    Path("nets.py").write_text("class Net: pass\n")
    code = recipe("nets.py:Net", "hf-hub:me/net")["code"]
    assert "timm" not in code and code["neuralign.networks.hubs.files"]
    assert recipe("torchvision:ResNet18_Weights.DEFAULT", "timm/test_resnet", "train_endpoint")["code"]["torchvision"]


def test_jobs_without_a_hub_do_not_depend_on_its_code(caches):
    Path("nets.py").write_text("class Net: pass\n")
    code = recipe("nets.py:Net", "unused", "train_endpoint")["code"]
    assert not any("hub" in module for module in code)
