"""Which positions of a tensor's axis move together: a union-find over axes that are cut and factored as they are used.

An axis is a leaf, of which any permutation is allowed as far as is known; or parts laid end to end (`cat`), as a
concatenation makes them; or a product of factors, outer to inner (`prod`), as a flattened map or the heads of an
attention. A leaf is refined when an operation cuts or factors it, and two axes that are joined take the finer structure
of both. What cannot be joined is frozen with a reason in words: never wrong, at worst less free. A `stack` is the
inner factor of a product whose outer factor is about to be picked apart, as query, key and value of one matrix are: it
stays a family of axes until something uses it as one.
"""

from collections.abc import Iterable, Sequence
from math import gcd, prod

POSITIONS = ""  # the reason of an axis whose order is part of the data: images, pixels, tokens
NEXT = 1e-6  # between the parts of one axis in the order of birth
STACKED = 4  # the largest outer factor that may be picked apart


class Axis:
    """A node of the union-find; `settle` gives the one that stands for it."""

    __slots__ = ("size", "kind", "parts", "reason", "parent", "label", "born", "marks", "outer", "whole")

    def __init__(self, size: int, label: str = "", born: float = float("inf"), reason: str | None = None):
        self.size, self.label, self.born, self.reason = size, label, born, reason
        self.kind: str | None = None
        self.parts: tuple[Axis, ...] = ()
        self.parent: Axis | None = None
        self.marks: set[str] = set()
        self.outer: Axis | None = None  # of a stack: the factor that numbers its members
        self.whole: tuple[Axis, Axis] | None = None  # of such a factor: the product, and its stack

    def settle(self) -> "Axis":
        """The node that stands for this one; a stack becomes one axis, its members tied."""
        node = self
        while node.parent is not None:
            if node.parent.parent is not None:
                node.parent = node.parent.parent
            node = node.parent
        if node.kind == "stack":
            members = node.parts
            node.kind, node.parts, node.parent = None, (), members[0]
            if node.outer is not None and (label := node.outer.label.removesuffix(":blocks")):
                members[0].label = f"{label}:within"
            for member in members[1:]:
                unify(members[0], member, "parts of it, that would move apart, are used as one")
            return node.settle()
        return node

    def stack(self) -> "Axis | None":
        """The node, where it is a stack."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node if node.kind == "stack" else None


def positions(size: int) -> Axis:
    """An axis whose order is part of the data."""
    return Axis(size, reason=POSITIONS)


def cat(parts: Iterable[Axis]) -> Axis:
    """Parts laid end to end."""
    return _composed("cat", [p for p in parts if p.size])


def product(factors: Iterable[Axis]) -> Axis:
    """Factors, outer to inner."""
    return _composed("prod", [f for f in factors if f.size != 1])


def _composed(kind: str, parts: list[Axis]) -> Axis:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Axis(1 if kind == "prod" else 0)
    node = Axis(sum(p.size for p in parts) if kind == "cat" else prod(p.size for p in parts))
    node.kind, node.parts = kind, tuple(parts)
    return node


def leaves(node: Axis) -> list[Axis]:
    """The leaves below a node, in order."""
    node = node.settle()
    return [leaf for part in node.parts for leaf in leaves(part)] if node.kind else [node]


def freeze(node: Axis, reason: str) -> None:
    """No permutation of it is allowed."""
    for leaf in leaves(node):
        if leaf.reason is None:
            leaf.reason = reason


def is_frozen(node: Axis) -> bool:
    """Whether no part of it may be permuted."""
    return all(leaf.reason is not None or leaf.size == 1 for leaf in leaves(node))


def unify(a: Axis, b: Axis, why: str) -> None:
    """The two axes are permuted alike."""
    a, b = a.settle(), b.settle()
    if a is b:
        return
    if a.size != b.size:
        raise AssertionError(f"{why}: axes of {a.size} and {b.size} joined")
    if not a.kind and not b.kind:
        _join(a, b, why)
    elif not a.kind or not b.kind:
        leaf, other = (a, b) if not a.kind else (b, a)
        if leaf.reason != POSITIONS and all(below.reason == POSITIONS for below in leaves(other)):
            leaf.reason = leaf.reason or why  # of its own: those positions may lie where nobody asks for a reason
            return
        if leaf.reason is not None:
            freeze(other, leaf.reason or why)
        _adopt(other, leaf)
    elif is_frozen(a) or is_frozen(b):
        still, other = (a, b) if is_frozen(a) else (b, a)
        freeze(other, next((r.reason for r in leaves(still) if r.reason), "") or why)
    else:
        if a.kind == b.kind == "prod":
            _unify_products(a, b, why)
        else:
            _unify_pieces(a, b, why)
        if a.settle() is not b.settle():
            a.settle().parent = b.settle()


def pieces(node: Axis) -> list[Axis]:
    """The axis as parts end to end that are no concatenations."""
    node = node.settle()
    if node.kind == "cat":
        return [piece for part in node.parts for piece in pieces(part)]
    if node.kind == "prod":
        outer, *inner = factors(node)
        if outer.settle().kind == "cat":
            return [p for part in pieces(outer) for p in pieces(product([part, *inner]))]
    return [node]


def factors(node: Axis) -> list[Axis]:
    """The axis as factors that are no products, outer to inner."""
    node = node.settle()
    return [f for part in node.parts for f in factors(part)] if node.kind == "prod" else [node]


def cut(node: Axis, at: int, why: str) -> tuple[Axis, Axis]:
    """The first `at` positions and the rest."""
    node = node.settle()
    if at in (0, node.size):
        return (Axis(0), node) if at == 0 else (node, Axis(0))
    if not node.kind:
        first, second = _refine(node, "cat", (at, node.size - at))
        return first, second
    if is_frozen(node):
        return positions(at), positions(node.size - at)
    if node.kind == "cat":
        before: list[Axis] = []
        for i, part in enumerate(node.parts):
            if at < part.size:
                left, right = cut(part, at, why)
                return cat([*before, left]), cat([right, *node.parts[i + 1 :]])
            at -= part.size
            before.append(part)
    outer, *inner = factors(node)
    size = node.size // outer.size
    if at % size == 0:
        left, right = cut(outer, at // size, why)
        return product([left, *inner]), product([right, *inner])
    freeze(node, why)
    return positions(at), positions(node.size - at)


def part(axis: Axis, start: int, size: int, why: str) -> Axis:
    """So many places of an axis from `start` on."""
    if is_frozen(axis):
        return positions(size)
    why = f"{why} takes a part of it"
    return cut(cut(axis, start, why)[1], size, why)[0]


def factor(node: Axis, sizes: Sequence[int], why: str, *, picked: bool = False) -> list[Axis]:
    """The axis as factors of these sizes, outer to inner; `picked`: the outer one may be picked apart."""
    sizes, out = list(sizes), []
    while sizes:
        size = sizes.pop(0)
        if size == 1 or prod(sizes) == 1:
            out.append(Axis(1) if size == 1 else node)
        else:
            outer, node = divide(node, size, why, picked=picked)
            out.append(outer)
    return out


def divide(node: Axis, outer: int, why: str, *, picked: bool = False) -> tuple[Axis, Axis]:
    """(outer, inner) factors of the axis."""
    stack = node.stack()
    if stack is not None and stack.outer is not None:
        pairs = [divide(member, outer, why) for member in stack.parts]
        first, second = (stacked(stack.outer, members) for members in zip(*pairs, strict=True))
        return first, second
    node = node.settle()
    inner = node.size // outer
    if is_frozen(node) and node.kind:
        return positions(outer), positions(inner)
    if not node.kind:
        if picked and outer <= STACKED and node.reason is None:
            return _pickable(node, _refine(node, "cat", (inner,) * outer))
        first, second = _refine(node, "prod", (outer, inner))
        return first, second
    if node.kind == "prod":
        return _divide_product(node, outer, why)
    parts = pieces(node)
    if picked and len(parts) == outer <= STACKED and all(p.size == inner for p in parts):
        return _pickable(node, tuple(parts), POSITIONS)  # parts of their own do not change places
    if all(part.size % inner == 0 for part in parts):
        outers, inners = zip(*(factor(part, (part.size // inner, inner), why) for part in parts), strict=True)
        for other in inners[1:]:
            unify(inners[0], other, why)
        return cat(outers), inners[0]
    freeze(node, why)
    return positions(outer), positions(inner)


def pick(outer: Axis) -> bool:
    """Let the product of a stack and this outer factor be a concatenation; whether there is such a product."""
    outer = outer.settle()
    if outer.whole is None or outer.whole[1].kind != "stack":
        return False
    whole, stack = outer.whole
    whole.kind, whole.parts = "cat", stack.parts
    freeze(outer, POSITIONS)
    return True


def _join(a: Axis, b: Axis, why: str) -> None:
    """Two leaves become one; the older stands for both."""
    old, young = (a, b) if a.born <= b.born else (b, a)
    if old.reason is None or young.reason is None:
        old.reason = next((r or why for r in (old.reason, young.reason) if r is not None), None)
    else:
        old.reason = old.reason or young.reason
    old.marks |= young.marks
    old.whole = old.whole or young.whole
    young.parent = old


def _adopt(other: Axis, leaf: Axis) -> None:
    """A refined axis stands for a leaf; its parts are as old as the older of both."""
    for i, below in enumerate(leaves(other)):
        below.marks |= leaf.marks
        if leaf.born < below.born:
            below.born, below.label = leaf.born + i * NEXT, f"{leaf.label}[{i}]"
    leaf.parent = other


def _refine(leaf: Axis, kind: str, sizes: Sequence[int]) -> tuple[Axis, ...]:
    """Turn a leaf into parts of these sizes."""
    names = [":blocks", ":within"] if kind == "prod" else [f"[{i}]" for i in range(len(sizes))]
    born = [leaf.born + i * NEXT for i in range(len(sizes))]
    leaf.parts = tuple(
        Axis(n, leaf.label + name, when, leaf.reason) for n, name, when in zip(sizes, names, born, strict=True)
    )
    for part in leaf.parts:
        part.marks = set(leaf.marks)
    leaf.kind = kind
    return leaf.parts


def stacked(outer: Axis, members: Sequence[Axis]) -> Axis:
    """An axis that is the member's own at every place of the outer one, until something uses it as one."""
    node = Axis(members[0].size)
    node.kind, node.parts, node.outer = "stack", tuple(members), outer
    return node


def _pickable(node: Axis, members: tuple[Axis, ...], reason: str | None = None) -> tuple[Axis, Axis]:
    """The axis as a product of an outer factor and a stack of these members."""
    outer = Axis(len(members), f"{node.label}:blocks", node.born, reason)
    inner = stacked(outer, members)
    node.kind, node.parts = "prod", (outer, inner)
    outer.whole = node, inner
    return outer, inner


def _divide_product(node: Axis, outer: int, why: str) -> tuple[Axis, Axis]:
    rest, before, reached = factors(node), [], 1
    while reached < outer:
        first = rest.pop(0)
        wanted = outer // reached
        if wanted % first.size == 0 and outer % reached == 0:
            before.append(first)
            reached *= first.size
        elif first.size % wanted == 0 and outer % reached == 0:
            left, right = divide(first, wanted, why)
            return product([*before, left]), product([right, *rest])
        else:
            freeze(node, why)
            return positions(outer), positions(node.size // outer)
    return product(before), product(rest)


def _unify_products(a: Axis, b: Axis, why: str) -> None:
    left, right = factors(a), factors(b)
    while left and right:
        one, other = left.pop(0), right.pop(0)
        if one.size == other.size:
            unify(one, other, why)
            continue
        common = gcd(one.size, other.size)
        if common == 1:
            for part in (one, other, *left, *right):
                freeze(part, why)
            return
        for part, rest in ((one, left), (other, right)):
            rest[:0] = divide(part, common, why) if part.size > common else [part]


def _unify_pieces(a: Axis, b: Axis, why: str) -> None:
    left, right = pieces(a), pieces(b)
    while left and right:
        one, other = left.pop(0), right.pop(0)
        if one.size != other.size:
            size = min(one.size, other.size)
            if one.size > size:
                one, rest = cut(one, size, why)
                left[:0] = pieces(rest)
            else:
                other, rest = cut(other, size, why)
                right[:0] = pieces(rest)
        unify(one, other, why)
