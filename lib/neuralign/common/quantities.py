"""The quantities that are measured of a network, as readers see them: names, units, and which values are better."""

from dataclasses import dataclass
from math import inf

LOSS = "loss"  # the quantity that every objective has


@dataclass(frozen=True)
class Quantity:
    """A number that is measured of a network."""

    name: str  # its column in tables, as the objective calls it
    label: str  # in sentences: "accuracy"
    unit: str = ""  # "%", "nats"
    higher_is_better: bool = False
    decimals: int = 3
    possible: tuple[float, float] = (-inf, inf)  # the smallest and the largest value that it can have
    logarithmic: bool = False  # whether axes of figures are
    function: str = ""  # of a loss, its name: "cross-entropy"
    meaning: str = ""  # a sentence for readers who may not know it

    @property
    def worst(self) -> str:
        """How the name of a column ends that has the worst value along a path."""
        return f"{self.name}_{'min' if self.higher_is_better else 'max'}"

    @property
    def best(self) -> str:
        """The same for the best value."""
        return f"{self.name}_{'max' if self.higher_is_better else 'min'}"

    @property
    def mean(self) -> str:
        """The name of the column that has the mean along a path."""
        return f"{self.name}_mean"

    @property
    def barrier(self) -> str:
        """The name of the column that says how much worse a path gets than its worse end."""
        return f"{self.name}_barrier"

    @property
    def difference_unit(self) -> str:
        """The unit of differences: those of percentages are in points."""
        return "points" if self.unit == "%" else self.unit

    @property
    def is_share(self) -> bool:
        """Whether it is the share of examples for which something holds, in percent."""
        return self.possible == (0, 100)

    def headed(self, before: str = "", after: str = "") -> str:
        """The heading of a column or the label of an axis, with words around it: "Average accuracy (%)"."""
        return f"{before} {self.label} {after}".strip() + (f" ({self.unit})" if self.unit else "")


@dataclass(frozen=True)
class Metrics:
    """What is measured in a study, and on what. The first quantity is the headline: findings and claims are of it."""

    quantities: tuple[Quantity, ...]
    noun: str = "images"  # what the examples of the datasets are called

    def __getitem__(self, name: str) -> Quantity:
        return next(quantity for quantity in self.quantities if quantity.name == name)

    @property
    def headline(self) -> Quantity:
        return self.quantities[0]

    @property
    def loss(self) -> Quantity:
        return self[LOSS]

    @property
    def scores(self) -> tuple[Quantity, ...]:
        """The quantities but the loss, or the loss if there is no other."""
        return tuple(q for q in self.quantities if q.name != LOSS) or self.quantities

    def tested(self) -> str:
        """What the scores are measured on, where there is no attack."""
        return "clean test images" if self.noun == "images" else f"test {self.noun}"

    @property
    def names(self) -> list[str]:
        return [quantity.name for quantity in self.quantities]
