"""The sections of the config as pydantic models: the keys of an entry beside the options of its plug-in.

The docstring of a model says what the entries of its section are; the description of a field says what the key means,
with its unit. `reference_page.py` writes docs/config.md from both.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from neuralign.config.metrics import OBJECTIVE
from neuralign.config.options import (
    Checksum,
    Count,
    Epochs,
    Flag,
    Fraction,
    FractionBelowOne,
    GridPoints,
    NonNegative,
    OpenFraction,
    Points,
    Positive,
    PositiveFraction,
    Range,
    Seed,
    Side,
    Text,
    in_words,
)

# Keys of trainings and evaluations that came after the first results were published. Where they have their default, the
# settings of a job leave them out, as they leave out the default objective, so that those results still are what the
# config asks for.
LATER_KEYS = ("optimiser", "clip", "warm_up", "schedule_by", "gpus", "batch_norm", "attack_precision")
PLACES = ("dataset", "network", "regime")  # the keys of `when` in an override


@dataclass(frozen=True)
class NameOf:
    """For `Annotated[str, NameOf("attacks")]`: the value, or each item of a list, names an entry of this section."""

    section: str

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Add the section to the JSON schema, for the reference page."""
        return {**handler(core_schema), "section": self.section}


class Strict(BaseModel):
    """A mapping without unknown keys."""

    model_config = ConfigDict(extra="forbid")


Augmentations = Annotated[list[Any], in_words("list of `{use: ..., options}`, each an [augmentation](#augmentations)")]


class DatasetKeys(Strict):
    """Images with labels, texts or tables: where they come from, and how training varies images."""

    augment: Augmentations = Field(
        default=[], description="Random changes of every training image, made in this order."
    )
    mean: list[Fraction] | None = Field(
        default=None,
        description="Mean of the pixels in [0, 1], one per channel; null: computed from the training images.",
    )
    std: list[PositiveFraction] | None = Field(
        default=None,
        description="Standard deviation of the pixels in [0, 1], one per channel; null: computed likewise.",
    )
    content: Checksum | None = Field(
        default=None,
        description="Digest of all images and labels, whatever their order. With it, other images are refused, the "
        "images are sorted by their digests, and results do not depend on which copy of the dataset they were made "
        "from; `checksum` may then be that of any archive. null: not compared, and the order stays as it is.",
    )
    validation_fraction: OpenFraction | None = Field(
        default=None,
        description="Share of the training images of each class, drawn at random, that becomes the test split, to "
        "choose settings without the test images; null: the dataset's own test split.",
    )


class NetworkKeys(Strict):
    """Architectures: one of those below, any importable callable (`package.module:name` or `folder/file.py:name`), or
    one of a hub (`timm/<model>`, `hf-hub:<repository>` or `torchvision:<Model>_Weights.<name>`).
    """

    input_size: Side | None = Field(
        default=None,
        description="Height and width in pixels to which images are resized; null: that of the hub's record for a "
        "network of a hub, else they keep the dataset's size.",
    )
    mean: list[Fraction] | None = Field(
        default=None,
        description="Mean for its normalisation, one per channel, in [0, 1]; null: the hub's, or the dataset's.",
    )
    std: list[PositiveFraction] | None = Field(
        default=None,
        description="Standard deviation for its normalisation, one per channel, in [0, 1]; null: the hub's, or the "
        "dataset's.",
    )
    on_curve: dict[str, Any] = Field(
        default={},
        description="Options that differ for points of curves and planes, as in the paper's code for Tiny ImageNet.",
    )


class ForeignNetwork(Strict):
    """The options of a network that is any importable callable, or of a hub."""

    options: dict[str, Any] = Field(default={}, description="Keyword arguments of the callable.")


class AttackKeys(Strict):
    """Adversarial attacks, for training and for evaluation."""


class AlignmentKeys(Strict):
    """Ways to align the neurons of a pair. An entry that is null leaves the networks as they are."""

    start: Annotated[str | None, NameOf("alignments")] = Field(
        default=None, description="The alignment whose permutation is the first guess; null: the identity."
    )
    augmented: Flag = Field(default=False, description="Whether the method sees augmented images, as training does.")
    attacked: Flag = Field(default=False, description="Whether the method sees attacked images, as training does.")
    attention: Flag = Field(
        default=False, description="Whether heads of attentions, and channels within heads, may be permuted too."
    )


class CohortKeys(Strict):
    """Ways to align several networks at once, all in the frame of the first."""

    inner: Annotated[str, NameOf("alignments")] = Field(
        description="The alignment of two networks that it uses; one without `start`."
    )


class RepairKeys(Strict):
    """What mends the mean of several networks, whose activations vary less than those of the networks themselves."""


class CurveKeys(Strict):
    """Families of curves between two networks in weight space."""


class Checkpoint(Strict):
    """Trained networks of one's own; a pair names them in place of seeds."""

    file: Text = Field(
        description="Path of a safetensors file or of a state dict saved by `torch.save`, or a name of a hub: "
        "`hf-hub:repository@revision:file`, `timm/model.tag`, `torchvision:Model_Weights.name`."
    )
    inside: Text | None = Field(
        default=None,
        description="What precedes the names of the weights in the file, such as `model`; null: whatever fits.",
    )


class Training(Strict):
    """Training by an optimiser, in epochs over all training images in a new random order."""

    epochs: Epochs = Field(description="Number of epochs.")
    batch_size: Count = Field(description="Examples per step.")
    lr: Positive = Field(description="Learning rate before the schedule.")
    optimiser: Annotated[Any, in_words("`{use: ..., options}`, one of the [optimisers](#optimisers), or null")] = Field(
        default=None, description="What turns gradients into steps; null: stochastic gradient descent with momentum."
    )
    momentum: FractionBelowOne = Field(
        default=0.9, description="Momentum of the gradient; only without `optimiser`, whose options are its own."
    )
    weight_decay: NonNegative = Field(
        default=0.0, description="L2 penalty: half of this times the squared norm of all parameters that train."
    )
    nesterov: Flag = Field(
        default=True, description="Whether the momentum is Nesterov's; only without `optimiser`, likewise."
    )
    clip: Positive | None = Field(
        default=None,
        description="Largest norm of the gradient of the loss by the network's parameters, before the weight decay is "
        "added; a larger gradient is scaled down to it. null: none is.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Number format of forward and backward passes; weights are always float32."
    )
    schedule: Annotated[Any, in_words("`{use: ..., options}`, one of the [schedules](#schedules)")] = Field(
        default_factory=lambda: {"use": "constant"}, description="What multiplies the learning rate in each epoch."
    )
    schedule_by: Literal["epoch", "step"] = Field(
        default="epoch", description="Whether the schedule changes the learning rate at every epoch or at every step."
    )
    warm_up: NonNegative = Field(
        default=0.0,
        description="Epochs, or a fraction of one, in which the learning rate also grows linearly from 0 by steps.",
    )
    gpus: Annotated[Count, Field(le=64)] = Field(
        default=1,
        description="GPUs of one machine that train a model together, each a part of every batch; where there are "
        "none, so many processes on the CPU.",
    )
    batch_norm: Literal["synchronised", "per_process"] = Field(
        default="synchronised",
        description="Whether batch norm sees the statistics of whole batches, or each of several `gpus` those of its "
        "part, and running statistics are those of the first; only with `gpus`.",
    )


class Regime(Strict):
    """How networks and curves are trained."""

    endpoint: Training = Field(description="Training of the networks at the ends.")
    curve: Training = Field(description="Training of the bends of curves.")
    attack: Annotated[str | None, NameOf("attacks")] = Field(
        default=None, description="Adversarial training of both with this attack; null: clean images."
    )
    normalise: Flag = Field(
        default=True,
        description="Whether networks see pixels normalised by `mean` and `std`, or as they are, in [0, 1].",
    )
    objective: Annotated[Any, in_words("`{use: ..., options}`, one of the [objectives](#objectives)")] = Field(
        default_factory=lambda: dict(OBJECTIVE), description="What is minimised and measured."
    )
    augment: Augmentations | None = Field(
        default=None, description="Random changes of training images in place of the dataset's; null: the dataset's."
    )


class Method(Strict):
    """An alignment and a curve: the methods that are compared, which are the rows of the tables."""

    alignment: Annotated[str, NameOf("alignments")] = Field(description="How the second network is aligned.")
    curve: Annotated[str, NameOf("curves")] = Field(description="The curve between the first and the aligned second.")


class Evaluation(Strict):
    """How the objective's metrics are measured along a curve, with new batch-norm statistics at every point."""

    points: Points = Field(description="Evenly spaced values of t in [0, 1], both ends included.")
    batch_size: Count = Field(default=512, description="Examples per batch.")
    images: Count | None = Field(
        default=None, description="Training images for batch-norm statistics; null: the whole training set."
    )
    full_passes: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="Points at which the whole training set corrects the estimates from `images`; null: at none.",
    )
    augment: Flag = Field(default=True, description="Whether these training images are augmented.")
    attacks: Annotated[list[str], NameOf("attacks")] = Field(
        default=[], description="Attacks under which loss and accuracy are measured, beside clean images."
    )
    attacked_statistics: Annotated[str | None, NameOf("attacks")] = Field(
        default=None,
        description="Attack under which batch-norm statistics are estimated, as in the paper's code; null: clean.",
    )
    attack_precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Number format of the network while the `attacks` look for their images; what they find is always "
        "measured in float32. bfloat16 is faster where the processor has it.",
    )
    seed: Seed = Field(default=0, description="Seed of everything random in the evaluation.")


class Window(Strict):
    """The part of a plane that is looked at. The second network lies at t1 = 1, the third at the height t2 = 1.

    A window that holds the first two networks and this height gets more columns where the third lies beyond it.
    """

    t1: Range = Field(default=[-0.05, 1.05], description="Along the line from the first to the second network.")
    t2: Range = Field(default=[-0.05, 1.05], description="Across that line, towards the third network.")


class CurveWindow(Window):
    """The same for the plane of a curve, whose third network is the middle of the curve."""

    t2: Range = Field(default=[-0.1, 1.5], description="Across that line, towards the third network.")


class Plane(Strict):
    """How the objective's metrics are measured on planes in weight space, for every pair and curve of a grid."""

    points: GridPoints = Field(description="Points of the plane's grid in each direction.")
    initial: Window = Field(
        default=Window(), description="Window of the plane through both networks and the second one aligned."
    )
    curve: CurveWindow = Field(
        default=CurveWindow(), description="Window of the plane through both ends and the middle of a curve."
    )
    batch_size: Count = Field(default=512, description="Examples per batch.")
    images: Count | None = Field(
        default=None, description="Training images for batch-norm statistics; null: the whole training set."
    )
    full_passes: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="Points, in each direction, at which the whole training set corrects these estimates; null: none.",
    )
    augment: Flag = Field(default=True, description="Whether these training images are augmented.")
    seed: Seed = Field(default=0, description="Seed of everything random in the evaluation.")


class Merge(Strict):
    """How the mean of a pair of networks, and the barrier between them, are measured for every alignment of a grid.

    Activations and statistics of batch norm are measured on random training images, augmented as in the training.
    """

    repairs: Annotated[list[str], NameOf("repairs")] = Field(
        default=[], description="Repairs of the mean, each of which is measured beside the mean as it is."
    )
    points: Annotated[Points, Field(ge=3)] = Field(
        default=25, description="Evenly spaced values of t where the barrier is looked for; the best is then refined."
    )
    batch_size: Count = Field(default=512, description="Examples per batch.")
    images: Count | None = Field(
        default=None,
        description="Training images for batch-norm statistics on the line; null: the whole training set. How many a "
        "repair takes is an option of the repair.",
    )
    attacks: Annotated[list[str], NameOf("attacks")] = Field(
        default=[], description="Attacks under which the mean and both networks are measured, beside clean images."
    )
    seed: Seed = Field(default=0, description="Seed of everything random in the measurement.")


class Grid(Strict):
    """All combinations of what it lists. Each pair goes with its own curve seed."""

    dataset: Annotated[list[str], NameOf("datasets")] = Field(description="Datasets; one needs no brackets.")
    network: Annotated[list[str], NameOf("networks")] = Field(description="Networks.")
    regime: Annotated[list[str], NameOf("regimes")] = Field(description="Trainings.")
    pair: list[str] = Field(
        description="Pairs of networks, by seed or checkpoint: `1-2`, `mine_a-mine_b`. Intervals over pairs take them "
        "for independent, which pairs with a network in common are not."
    )
    curve_seed: list[Seed] = Field(description="Seed of the training of curves: one for each pair, or one for all.")
    method: Annotated[list[str], NameOf("methods")] = Field(description="Methods to compare.")
    evaluation: Annotated[str, NameOf("evaluations")] = Field(description="How curves are evaluated.")
    plane: Annotated[str | None, NameOf("planes")] = Field(
        default=None, description="How planes are evaluated; null: there are none."
    )
    merge: Annotated[str | None, NameOf("merges")] = Field(
        default=None,
        description="How the means of pairs are measured, for `merges.csv`; null: there are none. Of the objective "
        "`cross_entropy` alone.",
    )
    members: list[str] = Field(
        default=[],
        description="Sets of two or more networks, by seed or checkpoint, to align and average: `1-2-3-4`.",
    )
    cohort: Annotated[list[str], NameOf("cohorts")] = Field(
        default=[],
        description="Alignments of each set of `members`, whose means are measured in `cohorts.csv`.",
    )
    measures: list[Literal["signature", "midpoint", "bound"]] = Field(
        default=["signature"],
        description="What else is measured: correlations of matched units (`signature`), those of a curve's midpoint "
        "with its ends (`midpoint`), a bound on the loss of the straight line (`bound`; of "
        "the objective `cross_entropy` alone).",
    )


class Study(Strict):
    """What one run of the workflow makes: its name is a target of `snakemake`, its result is a report."""

    title: str = Field(description="Title of the report.")
    description: str = Field(default="", description="First paragraph of the report.")
    compared: Annotated[list[str] | None, NameOf("regimes")] = Field(
        default=None,
        description="Regimes whose accuracies stand beside the published ones of the paper; null: `standard`. Of "
        "another objective than `cross_entropy` none do.",
    )
    grids: Annotated[list[Any], Field(min_length=1), in_words("list of [grids](#grids)")] = Field(
        description="Combinations of entries; no two grids of a study may repeat a run, and all regimes have the same "
        "objective."
    )


# sections whose entries name a plug-in, and the keys of an entry that are not options of the plug-in
PLUGIN_SECTIONS: dict[str, type[BaseModel]] = {
    "datasets": DatasetKeys,
    "networks": NetworkKeys,
    "attacks": AttackKeys,
    "alignments": AlignmentKeys,
    "cohorts": CohortKeys,
    "repairs": RepairKeys,
    "curves": CurveKeys,
}
PLAIN_SECTIONS: dict[str, type[BaseModel]] = {
    "checkpoints": Checkpoint,
    "regimes": Regime,
    "methods": Method,
    "evaluations": Evaluation,
    "planes": Plane,
    "merges": Merge,
    "studies": Study,
}
SECTIONS = [*PLUGIN_SECTIONS, *PLAIN_SECTIONS]
OVERRIDABLE = ("networks", "attacks", "alignments", "regimes", "methods", "evaluations", "planes", "merges")
