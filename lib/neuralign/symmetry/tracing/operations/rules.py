"""The rule of every operation that has one.

A rule unifies the axes that must be permuted alike, freezes those that the operation reads in order, and returns the
axes of the results. It is right if permuting the operands permutes the results as these axes say.
"""

from neuralign.symmetry.tracing.call import Rule
from neuralign.symmetry.tracing.operations.elementwise import ELEMENTWISE
from neuralign.symmetry.tracing.operations.lookups import LOOKUPS
from neuralign.symmetry.tracing.operations.products import PRODUCTS
from neuralign.symmetry.tracing.operations.shapes import SHAPES
from neuralign.symmetry.tracing.operations.space import SPATIAL

RULES: dict[str, Rule] = {**ELEMENTWISE, **SHAPES, **SPATIAL, **LOOKUPS, **PRODUCTS}
