"""Axes: which positions of which tensor dimensions must be permuted alike, as a union-find.

An `Axis` stands for one dimension of a tensor. It is one of

- a leaf: as far as is known, any permutation of it is allowed, unless it is frozen;
- "cat": parts laid end to end, as `torch.cat` makes them;
- "prod": factors, outer to inner, as a flattened feature map or the heads of an attention;
- "stack": several axes of one size, its members, one for each position of an outer factor, its index.

A leaf is refined (becomes a "cat" or a "prod") when an operation splits or unflattens it. Unified axes get the
structure of both. What cannot be unified is frozen with a reason in words: so there may be fewer free groups than
possible, but none that is wrong.

A "stack" is the inner factor of a product whose outer factor may be indexed next. An example is the output of a matrix
that computes query, key and value at once, unflattened to (3, heads * channels). The members stay separate until an
operation uses the stack as one axis.
"""

from collections.abc import Iterable, Sequence
from math import gcd, prod

# The reason of an axis whose order is part of the data: images, pixels, tokens. It is empty, as users need not read it:
# where such an axis is unified with another, a reason in words takes its place.
ORDER_IS_DATA = ""
STEP = 1e-6  # between `first_seen` of the parts of one axis
MOST_STACKED = 4  # the largest size of an outer factor that may become the index of a stack


class Axis:
    """A node of the union-find, which `resolve` turns into the node that represents its set.

    Args:
        size: how many positions the axis has.
        label: a name for messages and groups, made of the layer's name.
        first_seen: a number that orders axes as the run met them; a group is named after the smallest.
        reason: why the axis is frozen; None if it is not.
    """

    __slots__ = ("size", "kind", "parts", "reason", "parent", "label", "first_seen", "marks", "index", "stacked_in")

    def __init__(self, size: int, label: str = "", first_seen: float = float("inf"), reason: str | None = None):
        self.size, self.label, self.first_seen, self.reason = size, label, first_seen, reason
        self.kind: str | None = None  # "cat", "prod", "stack"; None for a leaf
        self.parts: tuple[Axis, ...] = ()
        self.parent: Axis | None = None
        self.marks: set[str] = set()  # ATTENTION and UNIT of `operations/products.py`
        self.index: Axis | None = None  # of a stack: the outer factor, whose positions number the members
        self.stacked_in: tuple[Axis, Axis] | None = None  # of an index: the product that it is a factor of, its stack

    def resolve(self) -> "Axis":
        """The node that represents this one. If that is a stack, its members are unified to one axis."""
        node = self
        while node.parent is not None:
            if node.parent.parent is not None:  # shorten the path for the next call
                node.parent = node.parent.parent
            node = node.parent
        if node.kind == "stack":
            members = node.parts
            node.kind, node.parts, node.parent = None, (), members[0]
            if node.index is not None and (label := node.index.label.removesuffix(":blocks")):
                members[0].label = f"{label}:within"
            for member in members[1:]:
                unify(members[0], member, "its parts, which differ, are used as one axis")
            return node.resolve()
        return node

    def as_stack(self) -> "Axis | None":
        """The stack that represents this node, its members still separate; None if no stack does."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node if node.kind == "stack" else None


def ordered_axis(size: int) -> Axis:
    """A new axis that is frozen because its order is part of the data."""
    return Axis(size, reason=ORDER_IS_DATA)


def cat(parts: Iterable[Axis]) -> Axis:
    """The axis of these parts laid end to end."""
    return _compose("cat", [p for p in parts if p.size])


def product(factors: Iterable[Axis]) -> Axis:
    """The axis of these factors, outer to inner, flattened."""
    return _compose("prod", [f for f in factors if f.size != 1])


def _compose(kind: str, parts: list[Axis]) -> Axis:
    """The "cat" or "prod" of these parts; the part itself if there is one only."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Axis(1 if kind == "prod" else 0)
    axis = Axis(sum(p.size for p in parts) if kind == "cat" else prod(p.size for p in parts))
    axis.kind, axis.parts = kind, tuple(parts)
    return axis


def leaves(axis: Axis) -> list[Axis]:
    """The leaves that an axis is made of, in order."""
    axis = axis.resolve()
    return [leaf for part in axis.parts for leaf in leaves(part)] if axis.kind else [axis]


def freeze(axis: Axis, reason: str) -> None:
    """Forbid any permutation of an axis. A leaf that was frozen before keeps its reason."""
    for leaf in leaves(axis):
        if leaf.reason is None:
            leaf.reason = reason


def is_frozen(axis: Axis) -> bool:
    """Whether no part of an axis may be permuted."""
    return all(leaf.reason is not None or leaf.size == 1 for leaf in leaves(axis))


def unify(a: Axis, b: Axis, reason: str) -> None:
    """Require that two axes of one size are permuted alike; parts that cannot be are frozen with this reason."""
    a, b = a.resolve(), b.resolve()
    if a is b:
        return
    if a.size != b.size:
        raise AssertionError(f"{reason}: axes of {a.size} and {b.size} positions unified")
    if not a.kind and not b.kind:
        _unify_leaves(a, b, reason)
    elif not a.kind or not b.kind:
        leaf, composed = (a, b) if not a.kind else (b, a)
        if leaf.reason != ORDER_IS_DATA and all(part.reason == ORDER_IS_DATA for part in leaves(composed)):
            leaf.reason = leaf.reason or reason  # kept apart from `composed`, for users read the reason of a parameter
            return
        if leaf.reason is not None:
            freeze(composed, leaf.reason or reason)
        _replace_leaf(leaf, composed)
    elif is_frozen(a) or is_frozen(b):
        frozen, other = (a, b) if is_frozen(a) else (b, a)
        freeze(other, next((leaf.reason for leaf in leaves(frozen) if leaf.reason), "") or reason)
    else:
        if a.kind == b.kind == "prod":
            _unify_products(a, b, reason)
        else:
            _unify_pieces(a, b, reason)
        if a.resolve() is not b.resolve():
            a.resolve().parent = b.resolve()


def pieces(axis: Axis) -> list[Axis]:
    """The parts that an axis is the concatenation of, none of which is a concatenation itself."""
    axis = axis.resolve()
    if axis.kind == "cat":
        return [piece for part in axis.parts for piece in pieces(part)]
    if axis.kind == "prod":
        outer, *inner = factors(axis)
        if outer.resolve().kind == "cat":
            return [piece for part in pieces(outer) for piece in pieces(product([part, *inner]))]
    return [axis]


def factors(axis: Axis) -> list[Axis]:
    """The factors of an axis, outer to inner, none of which is a product itself."""
    axis = axis.resolve()
    return [factor for part in axis.parts for factor in factors(part)] if axis.kind == "prod" else [axis]


def split_at(axis: Axis, position: int, reason: str) -> tuple[Axis, Axis]:
    """The axes of the positions before `position` and from it on; the axis is frozen if it cannot be split there."""
    axis = axis.resolve()
    if position in (0, axis.size):
        return (Axis(0), axis) if position == 0 else (axis, Axis(0))
    if not axis.kind:
        first, second = _refine(axis, "cat", (position, axis.size - position))
        return first, second
    if is_frozen(axis):
        return ordered_axis(position), ordered_axis(axis.size - position)
    if axis.kind == "cat":
        before: list[Axis] = []
        for i, part in enumerate(axis.parts):
            if position < part.size:
                left, right = split_at(part, position, reason)
                return cat([*before, left]), cat([right, *axis.parts[i + 1 :]])
            position -= part.size
            before.append(part)
    outer, *inner = factors(axis)
    inner_size = axis.size // outer.size
    if position % inner_size == 0:
        left, right = split_at(outer, position // inner_size, reason)
        return product([left, *inner]), product([right, *inner])
    freeze(axis, reason)
    return ordered_axis(position), ordered_axis(axis.size - position)


def narrow(axis: Axis, start: int, size: int, reason: str) -> Axis:
    """The axis of the `size` positions from `start` on, as `torch.narrow` takes them."""
    if is_frozen(axis):
        return ordered_axis(size)
    return split_at(split_at(axis, start, reason)[1], size, reason)[0]


def unflatten(axis: Axis, sizes: Sequence[int], reason: str, *, indexable: bool = False) -> list[Axis]:
    """The factors of these sizes that an axis is the product of, outer to inner; their product is the axis's size.

    `indexable`: whether an outer factor may become the index of a stack.
    """
    sizes, out = list(sizes), []
    while sizes:
        size = sizes.pop(0)
        if size == 1 or prod(sizes) == 1:
            out.append(Axis(1) if size == 1 else axis)
        else:
            outer, axis = divide(axis, size, reason, indexable=indexable)
            out.append(outer)
    return out


def divide(axis: Axis, outer_size: int, reason: str, *, indexable: bool = False) -> tuple[Axis, Axis]:
    """The factor of size `outer_size` and the inner factor of an axis, which is frozen if it has no such factors."""
    stack = axis.as_stack()
    if stack is not None and stack.index is not None:
        pairs = [divide(member, outer_size, reason) for member in stack.parts]
        first, second = (stacked(stack.index, members) for members in zip(*pairs, strict=True))
        return first, second
    axis = axis.resolve()
    inner_size = axis.size // outer_size
    if is_frozen(axis) and axis.kind:
        return ordered_axis(outer_size), ordered_axis(inner_size)
    if not axis.kind:
        if indexable and outer_size <= MOST_STACKED and axis.reason is None:
            return _product_of_stack(axis, _refine(axis, "cat", (inner_size,) * outer_size))
        first, second = _refine(axis, "prod", (outer_size, inner_size))
        return first, second
    if axis.kind == "prod":
        return _divide_product(axis, outer_size, reason)
    parts = pieces(axis)
    if indexable and len(parts) == outer_size <= MOST_STACKED and all(p.size == inner_size for p in parts):
        return _product_of_stack(axis, tuple(parts), ORDER_IS_DATA)  # parts that differ cannot change places
    if all(part.size % inner_size == 0 for part in parts):
        divided = [unflatten(part, (part.size // inner_size, inner_size), reason) for part in parts]
        outers, inners = zip(*divided, strict=True)
        for inner in inners[1:]:
            unify(inners[0], inner, reason)
        return cat(outers), inners[0]
    freeze(axis, reason)
    return ordered_axis(outer_size), ordered_axis(inner_size)


def separate_members(index: Axis) -> bool:
    """Turn the product of an index and its stack into the concatenation of the members; return whether this was done.

    To be called when an operation selects a member. The index is frozen. If the axis is no index, nothing is done.
    """
    index = index.resolve()
    if index.stacked_in is None or index.stacked_in[1].kind != "stack":
        return False
    composed, stack = index.stacked_in
    composed.kind, composed.parts = "cat", stack.parts
    freeze(index, ORDER_IS_DATA)
    return True


def _unify_leaves(a: Axis, b: Axis, reason: str) -> None:
    """Make two leaves one, represented by the one that was seen first."""
    old, young = (a, b) if a.first_seen <= b.first_seen else (b, a)
    if old.reason is None or young.reason is None:
        old.reason = next((r or reason for r in (old.reason, young.reason) if r is not None), None)
    else:
        old.reason = old.reason or young.reason
    old.marks |= young.marks
    old.stacked_in = old.stacked_in or young.stacked_in
    young.parent = old


def _replace_leaf(leaf: Axis, composed: Axis) -> None:
    """Let a composed axis represent a leaf; those of its leaves that were seen later are labelled after it."""
    for i, part in enumerate(leaves(composed)):
        part.marks |= leaf.marks
        if leaf.first_seen < part.first_seen:
            part.first_seen, part.label = leaf.first_seen + i * STEP, f"{leaf.label}[{i}]"
    leaf.parent = composed


def _refine(leaf: Axis, kind: str, sizes: Sequence[int]) -> tuple[Axis, ...]:
    """Turn a leaf into a "cat" or "prod" of new leaves of these sizes; return them."""
    suffixes = [":blocks", ":within"] if kind == "prod" else [f"[{i}]" for i in range(len(sizes))]
    leaf.parts = tuple(
        Axis(size, leaf.label + suffix, leaf.first_seen + i * STEP, leaf.reason)
        for i, (size, suffix) in enumerate(zip(sizes, suffixes, strict=True))
    )
    for part in leaf.parts:
        part.marks = set(leaf.marks)
    leaf.kind = kind
    return leaf.parts


def stacked(index: Axis, members: Sequence[Axis]) -> Axis:
    """The stack of these members, one for each position of `index`."""
    axis = Axis(members[0].size)
    axis.kind, axis.parts, axis.index = "stack", tuple(members), index
    return axis


def _product_of_stack(axis: Axis, members: tuple[Axis, ...], reason: str | None = None) -> tuple[Axis, Axis]:
    """Turn an axis into the product of an index and a stack of these members; return the index and the stack."""
    index = Axis(len(members), f"{axis.label}:blocks", axis.first_seen, reason)
    stack = stacked(index, members)
    axis.kind, axis.parts = "prod", (index, stack)
    index.stacked_in = axis, stack
    return index, stack


def _divide_product(axis: Axis, outer_size: int, reason: str) -> tuple[Axis, Axis]:
    """`divide` for a product: collect its factors from the outermost, and divide the one that is too large."""
    inner, outer, missing = factors(axis), [], outer_size  # `missing`: the size of the outer factors still to collect
    while missing > 1:
        first = inner.pop(0)
        if missing % first.size == 0:
            outer.append(first)
            missing //= first.size
        elif first.size % missing == 0:
            left, right = divide(first, missing, reason)
            return product([*outer, left]), product([right, *inner])
        else:
            freeze(axis, reason)
            return ordered_axis(outer_size), ordered_axis(axis.size // outer_size)
    return product(outer), product(inner)


def _unify_products(a: Axis, b: Axis, reason: str) -> None:
    """Unify factor by factor, dividing the larger; if sizes have no common divisor, freeze the remaining factors."""
    left, right = factors(a), factors(b)
    while left and right:
        first, second = left.pop(0), right.pop(0)
        if first.size == second.size:
            unify(first, second, reason)
            continue
        common = gcd(first.size, second.size)
        if common == 1:
            for axis in (first, second, *left, *right):
                freeze(axis, reason)
            return
        for axis, rest in ((first, left), (second, right)):
            rest[:0] = divide(axis, common, reason) if axis.size > common else [axis]


def _unify_pieces(a: Axis, b: Axis, reason: str) -> None:
    """Unify piece by piece, splitting the larger."""
    left, right = pieces(a), pieces(b)
    while left and right:
        first, second = left.pop(0), right.pop(0)
        if first.size != second.size:
            size = min(first.size, second.size)
            if first.size > size:
                first, rest = split_at(first, size, reason)
                left[:0] = pieces(rest)
            else:
                second, rest = split_at(second, size, reason)
                right[:0] = pieces(rest)
        unify(first, second, reason)
