"""What each entry of the config may hold, beside the options of its plug-in, as pydantic models."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from neuralign.config.options import (
    Count,
    Flag,
    Fraction,
    NonNegative,
    Points,
    Positive,
    Proper,
    Range,
    Seed,
    Side,
    Text,
    Unit,
)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DatasetKeys(Strict):
    augment: list[Any] = []
    mean: list[Fraction] | None = None
    std: list[Unit] | None = None


class NetworkKeys(Strict):
    input_size: Side | None = None
    mean: list[Fraction] | None = None  # its own normalisation, of a checkpoint say; None: the dataset's
    std: list[Unit] | None = None
    on_curve: dict[str, Any] = {}  # options that differ on curves: a mistake of the paper's code, to be repeated


class ForeignNetwork(Strict):
    """The options of a network that is any importable callable, which are checked when it is called."""

    options: dict[str, Any] = {}


class Checkpoint(Strict):
    file: Text
    inside: Text | None = None  # where in the file: the names in front of the tensors' own; None: where they fit


class AlignmentKeys(Strict):
    start: str | None = None  # the alignment whose permutation this one improves on; None: the identity
    augmented: Flag = False  # whether the method sees images as training does
    attacked: Flag = False  # whether it sees them attacked, as the regime does in training
    attention: Flag = False  # whether heads of attentions, and channels within heads, may be permuted too


class Nothing(Strict):
    pass


class Training(Strict):
    epochs: Annotated[Count, Field(le=100_000)]
    batch_size: Count
    lr: Positive
    momentum: Proper = 0.9
    weight_decay: NonNegative = 0.0
    nesterov: Flag = True
    precision: Literal["float32", "bfloat16"] = "float32"
    schedule: Any = Field(default_factory=lambda: {"use": "constant"})


class Regime(Strict):
    endpoint: Training
    curve: Training
    attack: str | None = None
    normalise: Flag = True


class Method(Strict):
    alignment: str
    curve: str


class Evaluation(Strict):
    points: Points
    batch_size: Count = 512
    images: Count | None = None  # for batch-norm statistics; None: the whole training set
    full_passes: int | None = Field(default=None, ge=2)  # points where all are seen, to correct those of `images`
    augment: Flag = True
    attacks: list[str] = []
    attacked_statistics: str | None = None  # re-estimate them under this attack, as the paper's code does
    seed: Seed = 0


class Window(Strict):
    """Which part of a plane is looked at: t1 = 1 is the second model, t2 = 1 the height of the third. A window that
    holds the first two models and this height gets more columns where the third lies beyond it.
    """

    t1: Range = [-0.05, 1.05]
    t2: Range = [-0.05, 1.05]


class CurveWindow(Window):
    t2: Range = [-0.1, 1.5]


class Plane(Strict):
    points: Annotated[Points, Field(le=1001)]  # of the grid, in each direction
    initial: Window = Window()  # the plane of both ends and the second one aligned
    curve: CurveWindow = CurveWindow()  # the plane of a curve
    batch_size: Count = 512
    images: Count | None = None  # for batch-norm statistics; None: the whole training set
    full_passes: int | None = Field(default=None, ge=2)  # the same, in each direction
    augment: Flag = True
    seed: Seed = 0


class Grid(Strict):
    dataset: list[str]
    network: list[str]
    regime: list[str]
    pair: list[str]
    curve_seed: list[Seed]
    method: list[str]
    evaluation: str
    plane: str | None = None  # the protocol of the planes; None: none
    measures: list[Literal["signature", "midpoint", "bound"]] = ["signature"]


class Study(Strict):
    title: str
    description: str = ""
    grids: list[Any] = Field(min_length=1)


# section of the config -> folder of its plug-ins, and the keys of an entry that are not the plug-in's
PLUGIN_SECTIONS: dict[str, tuple[str, type[BaseModel]]] = {
    "datasets": ("datasets", DatasetKeys),
    "networks": ("networks", NetworkKeys),
    "attacks": ("attacks", Nothing),
    "alignments": ("alignments", AlignmentKeys),
    "curves": ("curves", Nothing),
}
PLAIN_SECTIONS: dict[str, type[BaseModel]] = {
    "checkpoints": Checkpoint,
    "regimes": Regime,
    "methods": Method,
    "evaluations": Evaluation,
    "planes": Plane,
    "studies": Study,
}
SECTIONS = [*PLUGIN_SECTIONS, *PLAIN_SECTIONS]
OVERRIDABLE = ("networks", "attacks", "alignments", "regimes", "methods", "evaluations", "planes")
