"""Hand-made networks that are awkward to trace, with their free groups or the reason why there is none."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

Forward = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """A network of named layers whose forward pass is the function `do`."""

    def __init__(self, do: Forward, **layers: nn.Module | nn.Parameter):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.do = do

    def forward(self, x: Tensor) -> Tensor:
        return self.do(self, x)


def conv(inputs: int, outputs: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))))


def between(layer: nn.Module, inputs: int = 8, outputs: int = 8) -> Net:
    """A convolution, the layer, another convolution."""
    return Net(
        lambda n, x: n.b(F.relu(n.layer(n.a(x)))).mean((2, 3)), a=conv(3, inputs), layer=layer, b=conv(outputs, 5)
    )


def doing(act: Callable[[Tensor], Tensor], outputs: int = 8) -> Net:
    """A convolution, ReLU, a function, another convolution."""
    return Net(lambda n, x: n.b(act(n.a(x).relu())).mean((2, 3)), a=conv(3, 8), b=conv(outputs, 5))


def tokens(act: Forward, **layers: nn.Module | nn.Parameter) -> Net:
    """Patches of an image as tokens (n, t, 8), a function of them, and a linear head on the mean token."""

    def do(n: nn.Module, x: Tensor) -> Tensor:
        return n.head(act(n, n.patch(x).flatten(2).transpose(1, 2)).mean(1))

    return Net(do, patch=nn.Conv2d(3, 8, 4, 4), head=nn.Linear(8, 5), **layers)


def group_norm_on_a_stream() -> Net:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x)
        x = x + n.b(F.relu(n.norm(x)))
        return n.fc(x.mean((2, 3)))

    return Net(do, a=conv(3, 8), norm=nn.GroupNorm(2, 8), b=conv(8, 8), fc=nn.Linear(8, 5))


def squeeze_and_excitation() -> Net:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x).relu()
        return n.b(x * n.up(F.relu(n.down(F.adaptive_avg_pool2d(x, 1)))).sigmoid()).mean((2, 3))

    return Net(do, a=conv(3, 8), down=nn.Conv2d(8, 2, 1), up=nn.Conv2d(2, 8, 1), b=conv(8, 5))


def shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffled_halves() -> Net:
    """The unit of ShuffleNet, thrice."""

    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x)
        for layer in (n.b, n.c, n.d):
            kept, half = x.chunk(2, dim=1)
            x = shuffle(torch.cat([kept, layer(half).relu()], 1))
        return n.fc(x.mean((2, 3)))

    return Net(do, a=conv(3, 16), b=conv(8, 8), c=conv(8, 8), d=conv(8, 8), fc=nn.Linear(16, 5))


def packed(n: nn.Module, x: Tensor) -> Tensor:
    """Attention of two heads whose query, key and value come from one matrix, (3, heads, channels)."""
    count, long, wide = x.shape
    q, k, v = n.qkv(x).reshape(count, long, 3, 2, wide // 2).permute(2, 0, 3, 1, 4)
    return x + n.out(((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).reshape(count, long, wide))


def einsums(n: nn.Module, x: Tensor) -> Tensor:
    """Attention written with einsum, with an axis of heads in the weights."""
    q, k, v = (torch.einsum("ntc,chd->nhtd", x, w) for w in (n.q, n.k, n.v))
    return x + torch.einsum("nhtd,hdc->ntc", torch.einsum("nhts,nhsd->nhtd", (q @ k.mT).softmax(-1), v), n.o)


def interleaved(n: nn.Module, x: Tensor) -> Tensor:
    """Attention whose query, key and value come from one matrix, (heads, 3, channels)."""
    count, long, wide = x.shape
    q, k, v = n.qkv(x).view(count, long, 2, 3 * wide // 2).transpose(1, 2).chunk(3, -1)
    return x + n.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count, long, wide))


def biased(n: nn.Module, x: Tensor) -> Tensor:
    """The same with values larger than keys, and a learned bias for each head and distance of tokens."""
    count, long, _ = x.shape
    q, k, v = n.qkv(x).view(count, long, 2, 10).split([2, 2, 6], dim=3)
    places = torch.arange(long)
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) + n.biases[:, (places[:, None] - places).abs()]
    return x + n.out((scores.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2).reshape(count, long, 12))


def sloped(n: nn.Module, x: Tensor) -> Tensor:
    """Attention with linear biases (ALiBi): a constant slope for each of two heads."""
    q, k, v = (layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (n.q, n.k, n.v))
    scores = q @ k.mT - torch.arange(x.shape[1]) * torch.tensor([1.0, 0.5], dtype=x.dtype)[:, None, None]
    return x + n.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def multihead(n: nn.Module, x: Tensor) -> Tensor:
    return n.norm(x + n.attend(x, x, x, need_weights=False)[0])


def tied_words() -> Net:
    """An embedding whose matrix is also that of the head."""

    def do(n: nn.Module, x: Tensor) -> Tensor:
        return F.linear(n.hidden(n.words(x).mean(1)).relu(), n.words.weight)

    return Net(do, words=nn.Embedding(5, 8), hidden=nn.Linear(8, 8))


def dense() -> Net:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.stem(x)
        x = torch.cat([x, n.grow1(F.relu(n.bn1(x)))], 1)
        x = torch.cat([x, n.grow2(F.relu(n.bn2(x)))], 1)
        return n.fc(F.adaptive_avg_pool2d(F.relu(n.bn3(x)), 1).flatten(1))

    layers = {"stem": conv(3, 4), "grow1": conv(4, 3), "grow2": conv(7, 5), "fc": nn.Linear(12, 5)}
    layers |= {"bn1": nn.BatchNorm2d(4), "bn2": nn.BatchNorm2d(7), "bn3": nn.BatchNorm2d(12)}
    return Net(do, **layers)


def undecided(n: nn.Module, x: Tensor) -> Tensor:
    """How often a layer is called depends on activations."""
    x = n.a(x)
    for _ in range(2 + int(x.abs().mean() > 0.7)):
        x = n.b(x).relu()
    return n.fc(x.mean((2, 3)))


def branching(n: nn.Module, x: Tensor) -> Tensor:
    """Which layer is called depends on activations."""
    x = n.a(x)
    return n.fc((n.b if x.mean() > 0 else n.c)(x).relu().mean((2, 3)))


class Skipping(nn.Module):
    """A layer that training mode nearly always skips, by a random draw that Python reads."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and torch.rand(1).item() < 0.99 else x + self.inner(x)


def warned(n: nn.Module, x: Tensor) -> Tensor:
    """Notes a warning for some inputs, and does the same with all."""
    if 0.125 in x[:, :, [0, -1]] or torch.equal(x[0], x[-1]):
        n.warnings = ["odd pixels"]
    return n.b(n.a(x).relu()).mean((2, 3))


def checked(n: nn.Module, x: Tensor) -> Tensor:
    """Raises an error for some inputs."""
    if x.isnan().any():
        raise ValueError("pixels that are no numbers")
    return n.b(n.a(x).relu()).mean((2, 3))


def branching_on_pixels(n: nn.Module, x: Tensor) -> Tensor:
    """Which layer is called depends on the input alone."""
    bright = x.mean() > 0.9
    return n.fc((n.b if bright else n.c)(n.a(x)).relu().mean((2, 3)))


def branching_on_two(n: nn.Module, x: Tensor) -> Tensor:
    """A branch on two decisions, of which either alone changes nothing."""
    bright, dark = bool(x.mean() > 0.9), bool(x.min() < 0.001)
    x = n.a(x).relu()
    return n.b(x.cumsum(1) if bright and dark else x).mean((2, 3))


def other_operand(n: nn.Module, x: Tensor) -> Tensor:
    """Both branches run the same operations, on other tensors."""
    bright = bool(x.mean() > 0.9)
    x = n.a(x).relu()
    y, z = n.c(x), n.d(x)
    return n.b(x + (z if bright else y)).mean((2, 3)) + 0 * z.sum()


def written_through_a_view(n: nn.Module, x: Tensor) -> Tensor:
    """One branch overwrites a part of the activations through a view."""
    bright = bool(x.mean() > 0.9)
    x = n.a(x).relu()
    part = x[:, :, 0]
    if bright:
        part.copy_(part.cumsum(1))
    return n.b(x).mean((2, 3))


def asked_further(n: nn.Module, x: Tensor) -> Tensor:
    """A second decision is made in one branch of the first only."""
    if x.mean() > 0.9 and x.min() < 0.001:
        x = x.flip(1)
    return n.b(n.a(x).relu()).mean((2, 3))


def warned_of_activations(n: nn.Module, x: Tensor) -> Tensor:
    x = n.a(x)
    if (x.amax(1) > 9).any():
        n.warnings = ["large activations"]
    return n.b(x.relu()).mean((2, 3))


def sized_by_pixels(n: nn.Module, x: Tensor) -> Tensor:
    """How many rows are read depends on a value of the input."""
    return n.b(n.a(x).relu()[:, :, : 1 + int(x.mean() * 4)]).mean((2, 3))


def left_out() -> Net:
    return Net(lambda n, x: n.b(n.skipped(n.a(x).relu())).mean((2, 3)), a=conv(3, 8), skipped=Skipping(), b=conv(8, 5))


class Keeping(nn.Module):
    """A layer without parameters that has buffers."""

    def __init__(self, act: Forward, *, persistent: bool = True, **kept: Tensor) -> None:
        super().__init__()
        self.act = act
        for name, tensor in kept.items():
            self.register_buffer(name, tensor, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self, x)


def scaled(n: nn.Module, x: Tensor) -> Tensor:
    return x * n.kept[:, None, None]


def masked(n: nn.Module, x: Tensor) -> Tensor:
    return x.masked_fill(n.kept[:, None, None], 0.5)


def remembered(n: nn.Module, x: Tensor) -> Tensor:
    """Adds the mean of each channel in the previous run."""
    y = x + n.kept[:, None, None]
    n.kept = x.mean((0, 2, 3))
    return y


def swapped_memory(n: nn.Module, x: Tensor) -> Tensor:
    """Two halves of channels, each combined with the means of the other in the previous run."""
    a, b = x.chunk(2, 1)
    y = torch.cat([a + n.one[:, None, None], b * n.two[:, None, None]], 1)
    n.one, n.two = b.mean((0, 2, 3)), a.mean((0, 2, 3))
    return y


class Counting(nn.Module):
    """Scales by how often it was called in training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.child = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps.add_(1)
        return self.child(x) * (1 + self.steps)


def counting() -> Net:
    return between(Counting())


def in_float32(x: Tensor) -> Tensor:
    """An RMS norm with casts to float32, as language models have it."""
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1e-6)
    return F.softmax(y.type_as(x), 1, dtype=torch.float32).to(x.dtype)


def numbered() -> Net:
    layer = nn.Identity()
    layer.order = nn.Parameter(torch.arange(8), requires_grad=False)
    return between(layer)


def padded_shortcut(n: nn.Module, x: Tensor) -> Tensor:
    """A residual block whose shortcut adds channels of zeros."""
    x = n.a(x).relu()
    return n.fc((F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + n.b(x)).relu().mean((2, 3)))


def filled(n: nn.Module, x: Tensor) -> Tensor:
    """Two layers write into the parts of one tensor."""
    out = torch.zeros(x.shape[0], 8, *x.shape[2:], dtype=x.dtype)
    out[:, :3] = n.a(x)
    out[:, 3:] = n.b(x)
    return n.fc(out.relu().mean((2, 3)))


def lengths(n: nn.Module, x: Tensor) -> Tensor:
    return n.b(n.along(n.a(x.flatten(2)).relu()).relu()).mean(2)


def recurrent(n: nn.Module, x: Tensor) -> Tensor:
    return n.rnn(x)[0]


def sequence(layer: nn.Module, width: int) -> Net:
    """The pixels of a map as a sequence, a recurrent layer, a linear head on its mean output."""
    return Net(
        lambda n, x: n.fc(n.rnn(n.a(x).flatten(2).mT)[0].mean(1)), a=conv(3, 4), rnn=layer, fc=nn.Linear(width, 5)
    )


def steps_down(n: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The states of a cell after three rows of a map."""
    state = None
    for row in range(3):
        state = n.step(x[:, :, row].mean(2), state)
    return state


def last_states(n: nn.Module, x: Tensor) -> Tensor:
    """A head on the last state of the second recurrent layer."""
    return n.fc(n.rnn(n.a(x).flatten(2).mT)[1][0][1])


def unfolded(n: nn.Module, x: Tensor) -> Tensor:
    """A convolution as F.unfold and a product of matrices."""
    columns = F.unfold(n.a(x).relu(), 3, padding=1)
    return n.b((n.kernel.flatten(1) @ columns).unflatten(2, x.shape[2:]).relu()).mean((2, 3))


def pixels(count: int) -> Tensor:
    """Some indices of a map of 64 pixels, one of them twice."""
    return torch.arange(count) * 7 % 60


def put_to_pixels(x: Tensor) -> Tensor:
    """Some pixels replaced, some added to; all channels alike."""
    rows, columns = torch.tensor([0, 3]), torch.tensor([1, 2])
    x = x.clone()
    x[:, :, rows, columns] = 2 * x[:, :, columns, rows]
    return x


def written_later(n: nn.Module, x: Tensor) -> Tensor:
    """Parts of a tensor of zeros are combined with different layers after one of them was written to."""
    zeros = torch.zeros(2, 4, 1, 1, dtype=x.dtype)
    first, second = zeros[0], zeros[1]
    first.copy_(n.a(x).mean((0, 2, 3))[:, None, None])
    return n.c(torch.cat([n.a(x) + first, n.b(x) * zeros[0] + second], 1)).mean((2, 3))


def grouped_query(shared: bool) -> Forward:
    """Grouped-query attention, four heads on two keys: `shared` by torch, or repeated as language models do."""

    def act(n: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (n.q(x).unflatten(2, (4, 2)), n.k(x).unflatten(2, (2, 2)), n.v(x).unflatten(2, (2, 2)))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if not shared:
            k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(len(x), 4, -1, 2) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=shared)
        return x + n.out(y.transpose(1, 2).flatten(2))

    return act


def rotated(x: Tensor) -> Tensor:
    """Rotary embedding of queries or keys (n, heads, t, 4) that pairs channels of both halves."""
    angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1], dtype=x.dtype)
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


def turned(x: Tensor) -> Tensor:
    """Rotary embedding that pairs neighbouring channels, as complex numbers."""
    angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
    pairs = torch.view_as_complex(x.unflatten(-1, (2, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def rotary(turn: Callable[[Tensor], Tensor]) -> Forward:
    """Attention of two heads with a rotary embedding."""

    def act(n: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (n.q, n.k, n.v))
        return x + n.out(F.scaled_dot_product_attention(turn(q), turn(k), v).transpose(1, 2).flatten(2))

    return act


def projections(*sizes: int) -> dict[str, nn.Module]:
    """Linear layers from 8 channels to a query, key and value of these sizes, and back."""
    layers: dict[str, nn.Module] = {name: nn.Linear(8, size) for name, size in zip("qkv", sizes, strict=True)}
    return layers | {"out": nn.Linear(8, 8)}


class Fourier(nn.Module):
    """A Fourier neural operator layer: complex weights for the lowest spatial frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.skip, self.up = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 5)
        self.spectral = nn.Parameter(0.1 * torch.randn(8, 8, 4, 3, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        z = torch.fft.rfft2(x)
        out = torch.zeros_like(z)
        out[:, :, :4, :3] = torch.einsum("bixy,ioxy->boxy", z[:, :, :4, :3], self.spectral.to(z.dtype))
        x = F.gelu(torch.fft.irfft2(out, s=x.shape[2:]) + self.skip(x))
        return self.head(F.gelu(self.up(x)).mean((2, 3)))


# networks by what is awkward about them, and their free groups with sizes
FREE: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "grouped convolution": (
        lambda: between(nn.Conv2d(8, 12, 3, padding=1, groups=4), outputs=12),
        {"a:blocks": 4, "a:within": 2, "layer": 3},
    ),
    "as many groups as inputs, twice as many outputs": (
        lambda: between(nn.Conv2d(8, 16, 3, padding=1, groups=8), outputs=16),
        {"a": 8, "layer": 2},
    ),
    "depthwise": (lambda: between(nn.Conv2d(8, 8, 3, padding=1, groups=8)), {"a": 8}),
    "one output is not depthwise": (lambda: between(nn.Conv2d(8, 1, 1), outputs=1), {"a": 8, "layer": 1}),
    "transposed": (lambda: between(nn.ConvTranspose2d(8, 6, 2, 2), outputs=6), {"a": 8, "layer": 6}),
    "transposed in groups": (
        lambda: between(nn.ConvTranspose2d(8, 6, 2, 2, groups=2), outputs=6),
        {"a:blocks": 2, "a:within": 4, "layer": 3},
    ),
    "one dimension": (
        lambda: Net(lengths, a=nn.Conv1d(3, 6, 3), along=nn.Conv1d(6, 4, 5, groups=2), b=nn.Conv1d(4, 5, 1)),
        {"a:blocks": 2, "a:within": 3, "along": 2},
    ),
    "three dimensions": (
        lambda: Net(
            lambda n, x: n.b(n.a(x[:, :, None].expand(-1, -1, 3, -1, -1)).relu()).mean((2, 3, 4)),
            a=nn.Conv3d(3, 4, 3),
            b=nn.Conv3d(4, 5, 1),
        ),
        {"a": 4},
    ),
    "group norm": (group_norm_on_a_stream, {"a:blocks": 2, "a:within": 4}),
    "group norm of one": (lambda: between(nn.GroupNorm(1, 8)), {"a": 8}),
    "group norm of each": (lambda: between(nn.GroupNorm(8, 8)), {"a": 8}),
    "instance norm": (lambda: between(nn.InstanceNorm2d(8, affine=True)), {"a": 8}),
    "instance norm that remembers": (
        lambda: between(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        {"a": 8},
    ),
    "prelu": (lambda: between(nn.PReLU(8)), {"a": 8}),
    "squeeze and excitation": (squeeze_and_excitation, {"a": 8, "down": 2}),
    "channel shuffle": (lambda: doing(shuffle), {"a:blocks": 2, "a:within": 4}),
    "channel shuffle by name": (lambda: between(nn.ChannelShuffle(2)), {"a:blocks": 2, "a:within": 4}),
    "shuffled halves": (shuffled_halves, {"a[0][0][0]": 2, "a[0][0][1]": 2, "a[0][1]": 4, "a[1]": 8}),
    "pixel shuffle": (lambda: doing(lambda x: F.pixel_shuffle(x, 2), 2), {"a": 2}),
    "pixel unshuffle": (lambda: doing(lambda x: F.pixel_unshuffle(x, 2), 32), {"a": 8}),
    "halves as gates": (lambda: doing(lambda x: F.glu(x, 1), 4), {"a": 4}),
    "chunks as gates": (lambda: doing(lambda x: (lambda a, b: a * b.sigmoid())(*x.chunk(2, 1)), 4), {"a": 4}),
    "chunks of their own": (
        lambda: doing(lambda x: torch.cat([c.mean(1, keepdim=True) * c for c in x.chunk(2, 1)], 1)),
        {"a[0]": 4, "a[1]": 4},
    ),
    "softmax over channels": (lambda: doing(lambda x: x.softmax(1)), {"a": 8}),
    "normalised channels": (lambda: doing(lambda x: F.normalize(x, dim=1)), {"a": 8}),
    "the mean of everything": (lambda: doing(lambda x: x - x.mean()), {"a": 8}),
    "a norm of maps": (lambda: doing(lambda x: F.layer_norm(x, (8, 8, 8))), {"a": 8}),
    "one channel over all": (
        lambda: Net(lambda n, x: n.c(n.a(x) * n.b(x)).mean((2, 3)), a=conv(3, 8), b=conv(3, 1), c=conv(8, 5)),
        {"a": 8, "b": 1},
    ),
    "dense concatenation": (dense, {"stem": 4, "grow1": 3, "grow2": 5}),
    "padded shortcut": (
        lambda: Net(padded_shortcut, a=conv(3, 4), b=conv(4, 8, stride=2), fc=nn.Linear(8, 5)),
        {"a": 4, "b[0]": 2, "b[2]": 2},
    ),
    "written in parts": (lambda: Net(filled, a=conv(3, 3), b=conv(3, 5), fc=nn.Linear(8, 5)), {"a": 3, "b": 5}),
    "a layer called twice": (
        lambda: Net(
            lambda n, x: n.b(n.t(n.t(n.a(x)).relu()).relu()).mean((2, 3)), a=conv(3, 4), t=conv(4, 4), b=conv(4, 5)
        ),
        {"a": 4},
    ),
    "a parameter used twice": (
        lambda: Net(
            lambda n, x: n.fc((n.a(x) * n.scale).relu().mean((2, 3)) + n.scale.flatten()),
            a=conv(3, 4),
            scale=weight(1, 4, 1, 1),
            fc=nn.Linear(4, 5),
        ),
        {"a": 4},
    ),
    "computed weights": (
        lambda: Net(
            lambda n, x: n.b(n.a(x).relu()).mean((2, 3)), a=parametrizations.weight_norm(conv(3, 4)), b=conv(4, 5)
        ),
        {"a.parametrizations.weight.original1": 4},
    ),
    "learned positions": (
        lambda: tokens(lambda n, x: n.mix((x + n.at).relu()), at=weight(4, 8), mix=nn.Linear(8, 8)),
        {"patch": 8, "mix": 8},
    ),
    "a class token": (
        lambda: tokens(lambda n, x: torch.cat([n.token.expand(len(x), -1, -1), x], 1)[:, :1], token=weight(1, 1, 8)),
        {"patch": 8},
    ),
    "packed attention": (lambda: tokens(packed, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)), {"patch": 8}),
    "attention by einsum": (
        lambda: tokens(einsums, q=weight(8, 2, 4), k=weight(8, 2, 4), v=weight(8, 2, 4), o=weight(2, 4, 8)),
        {"patch": 8},
    ),
    "interleaved attention": (lambda: tokens(interleaved, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)), {"patch": 8}),
    "attention of torch": (
        lambda: tokens(multihead, attend=nn.MultiheadAttention(8, 2, batch_first=True), norm=nn.LayerNorm(8)),
        {"patch": 8},
    ),
    "encoder layer": (
        lambda: tokens(lambda n, x: n.layer(x), layer=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
        {"patch": 8, "layer.linear1": 16},
    ),
    "layers left out in training": (lambda: left_out(), {"a": 8, "skipped.inner.0": 8}),
    "random noise": (lambda: doing(lambda x: x + torch.randn(1, 1, *x.shape[2:], dtype=x.dtype)), {"a": 8}),
    "a count of steps": (counting, {"a": 8}),
    "norm in float32": (lambda: doing(in_float32), {"a": 8}),
    "masked with minus infinity": (
        lambda: Net(
            lambda n, x: n.b(n.a(x).mean((2, 3))).masked_fill(torch.arange(5) == 2, -torch.inf),
            a=conv(3, 8),
            b=nn.Linear(8, 5),
        ),
        {"a": 8},
    ),
    "recurrent": (
        lambda: Net(
            lambda n, x: n.fc(n.rnn(n.a(x).flatten(2).mT)[0].mean(1)),
            a=conv(3, 4),
            rnn=nn.LSTM(4, 6, batch_first=True),
            fc=nn.Linear(6, 5),
        ),
        {"a": 4, "rnn.weight_ih_l0": 6},
    ),
    "gated recurrence": (
        lambda: Net(
            lambda n, x: n.fc(n.step(n.a(x).mean((2, 3)))), a=conv(3, 8), step=nn.GRUCell(8, 6), fc=nn.Linear(6, 5)
        ),
        {"a": 8, "step.weight_ih": 6},
    ),
    "convolution over tokens": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x).flatten(2).mT).relu()).mean(2),
            a=conv(3, 8),
            b=nn.Conv1d(64, 6, 1),
            c=nn.Conv1d(6, 5, 1),
        ),
        {"a": 8, "b": 6},
    ),
    "numbers that are no weights": (numbered, {"a": 8}),
    "recurrent layers both ways": (
        lambda: sequence(nn.LSTM(4, 6, 2, bidirectional=True, batch_first=True), 12),
        {"a": 4} | {f"rnn.weight_ih_l{layer}{way}": 6 for layer in (0, 1) for way in ("", "_reverse")},
    ),
    "recurrent and projected": (
        lambda: sequence(nn.LSTM(4, 6, proj_size=3, bias=False, batch_first=True), 3),
        {"a": 4, "rnn.weight_ih_l0": 6, "rnn.weight_hh_l0": 3},
    ),
    "gated recurrent layers": (
        lambda: sequence(nn.GRU(4, 6, 2, batch_first=True), 6),
        {"a": 4, "rnn.weight_ih_l0": 6, "rnn.weight_ih_l1": 6},
    ),
    "plain recurrence": (lambda: sequence(nn.RNN(4, 6, batch_first=True), 6), {"a": 4, "rnn.weight_ih_l0": 6}),
    "the last state of the last layer": (
        lambda: Net(last_states, a=conv(3, 4), rnn=nn.LSTM(4, 6, 2, batch_first=True), fc=nn.Linear(6, 5)),
        {"a": 4, "rnn.weight_ih_l0": 6, "rnn.weight_ih_l1": 6},
    ),
    "a cell of a recurrence": (
        lambda: Net(
            lambda n, x: n.fc(steps_down(n, n.a(x))[0]), a=conv(3, 8), step=nn.LSTMCell(8, 6), fc=nn.Linear(6, 5)
        ),
        {"a": 8, "step.weight_hh": 6},
    ),
    "read at places that other channels give": (
        lambda: Net(
            lambda n, x: n.b(F.grid_sample(n.a(x), n.at(n.c(x)).tanh().permute(0, 2, 3, 1), align_corners=False)),
            a=conv(3, 4),
            c=conv(3, 6),
            at=conv(6, 2),
            b=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
        ),
        {"a": 4, "c": 6},
    ),
    "windows side by side": (
        lambda: Net(unfolded, a=conv(3, 4), kernel=weight(6, 4, 3, 3), b=conv(6, 5)),
        {"a": 4, "kernel": 6},
    ),
    "windows laid over": (
        lambda: doing(lambda x: F.fold(F.unfold(x, 2, stride=2).relu(), x.shape[2:], 2, stride=2)),
        {"a": 8},
    ),
    "windows of lines": (lambda: doing(lambda x: x.unfold(2, 3, 2).unfold(3, 2, 1).amax((-2, -1))), {"a": 8}),
    "gathered pixels": (
        lambda: doing(lambda x: x.flatten(2).gather(2, pixels(16).expand(*x.shape[:2], -1)).unflatten(2, (4, 4))),
        {"a": 8},
    ),
    "the pixels of some order": (
        lambda: doing(lambda x: x * x.flatten(2).gather(2, x.flatten(2).argmax(2, keepdim=True))[..., None]),
        {"a": 8},
    ),
    "selected pixels": (
        lambda: doing(lambda x: x.index_select(3, pixels(6) % 8).index_select(2, pixels(5) % 8)),
        {"a": 8},
    ),
    "added to pixels": (
        lambda: doing(lambda x: torch.zeros_like(x).index_add(2, pixels(8) % 8, x).index_fill(3, pixels(2) % 8, 0.5)),
        {"a": 8},
    ),
    "put to pixels": (lambda: doing(put_to_pixels), {"a": 8}),
    "scattered over pixels": (
        lambda: doing(
            lambda x: (
                torch.zeros_like(x).scatter_add(2, (pixels(8) % 8)[:, None].expand_as(x), x)
                + x.scatter_reduce(3, (pixels(8) % 8).expand_as(x), x.abs(), "amax")
            )
        ),
        {"a": 8},
    ),
    "scattered to the first channels": (
        lambda: doing(
            lambda x: x.scatter_add(
                2, torch.zeros(1, 3, 1, 8, dtype=torch.int64).expand(len(x), -1, 4, -1), x[:, :3, :4]
            )
        ),
        {"a[0]": 3, "a[1]": 5},
    ),
    "bilinear": (
        lambda: Net(
            lambda n, x: n.fc(n.both(n.a(x).relu().mean((2, 3)), n.b(x).relu().amax((2, 3))).relu()),
            **{"a": conv(3, 4), "b": conv(3, 6), "both": nn.Bilinear(4, 6, 7), "fc": nn.Linear(7, 5)},
        ),
        {"a": 4, "b": 6, "both": 7},
    ),
    "distances to learned points": (
        lambda: tokens(lambda n, x: n.mix(torch.cdist(x, n.at).exp()), at=weight(1, 6, 8), mix=nn.Linear(6, 8)),
        {"patch": 8, "at": 6, "mix": 8},
    ),
    "half of every map": (lambda: doing(lambda x: x.tril() + x.triu(1).exp()), {"a": 8}),
    "frequencies of space": (
        lambda: doing(lambda x: torch.fft.ifft2(torch.fft.fft2(x).conj() * 2).real + torch.fft.fft(x).abs()),
        {"a": 8},
    ),
    "complex weights": (Fourier, {"lift": 8, "spectral": 8, "up": 16}),
    "pairs as complex numbers": (
        lambda: doing(
            lambda x: torch.view_as_real(torch.view_as_complex(x.contiguous().unflatten(3, (4, 2))) * (1 + 2j)).flatten(
                3
            )
        ),
        {"a": 8},
    ),
    "pairs of channels as complex numbers": (
        lambda: doing(
            lambda x: torch.view_as_complex(x.movedim(1, 3).unflatten(3, (4, 2)).contiguous()).abs().movedim(3, 1), 4
        ),
        {"a": 4},
    ),
    "a kept scale": (lambda: between(Keeping(scaled, kept=weight(8).detach())), {"a": 8}),
    "a kept mask": (lambda: between(Keeping(masked, kept=torch.arange(8) % 3 == 1)), {"a": 8}),
    "kept whole numbers": (lambda: between(Keeping(scaled, kept=torch.arange(8))), {"a": 8}),
    "kept positions of a map": (
        lambda: between(Keeping(lambda n, x: x + n.kept, kept=weight(8, 8, 8).detach())),
        {"a": 8},
    ),
    "kept channels that mix": (
        lambda: between(
            Keeping(lambda n, x: torch.einsum("nchw,cd->ndhw", x, n.kept), kept=weight(8, 6).detach()), 8, 6
        ),
        {"a": 8, "b#2": 6},
    ),
    "a kept number of all": (
        lambda: between(Keeping(lambda n, x: x * n.kept.sum(), kept=weight(5).detach())),
        {"a": 8},
    ),
    "what is kept of the run before": (lambda: between(Keeping(remembered, kept=weight(8).detach())), {"a": 8}),
    "what the other half keeps": (
        lambda: between(Keeping(swapped_memory, one=weight(4).detach(), two=weight(4).detach() + 1)),
        {"a": 4},
    ),
    "pruned": (
        lambda: between(prune.random_unstructured(conv(8, 6), "weight", 0.5), 8, 6),
        {"a": 8, "layer.weight_orig": 6},
    ),
    "a spectral norm": (
        lambda: between(parametrizations.spectral_norm(conv(8, 6)), 8, 6),
        {"a": 8, "layer.parametrizations.weight.original": 6},
    ),
    "warnings of the input": (lambda: Net(warned, a=conv(3, 8), b=conv(8, 5)), {"a": 8}),
    "inputs that are refused": (lambda: Net(checked, a=conv(3, 8), b=conv(8, 5)), {"a": 8}),
    "stacked branches": (
        lambda: Net(
            lambda n, x: n.c(torch.stack([n.a(x), n.b(x)])[1].relu()).mean((2, 3)),
            a=conv(3, 4),
            b=conv(3, 4),
            c=conv(4, 5),
        ),
        {"a": 4, "b": 4},
    ),
    "stacked and summed": (
        lambda: Net(
            lambda n, x: n.c(torch.stack([n.a(x), n.b(x)]).sum(0).relu()).mean((2, 3)),
            a=conv(3, 4),
            b=conv(3, 4),
            c=conv(4, 5),
        ),
        {"a": 4},
    ),
    "states of zeros": (
        lambda: Net(
            lambda n, x: n.c(
                torch.cat([n.a(x) + (z := torch.zeros(2, 4, 1, 1, dtype=x.dtype))[0], n.b(x) * z[1]], 1)
            ).mean((2, 3)),
            a=conv(3, 4),
            b=conv(3, 4),
            c=conv(8, 5),
        ),
        {"a": 4, "b": 4},
    ),
    "zeros that are written to": (
        lambda: Net(written_later, a=conv(3, 4), b=conv(3, 4), c=conv(8, 5)),
        {"a": 4},
    ),
    "shared keys": (lambda: tokens(grouped_query(True), **projections(8, 4, 4)), {"patch": 8}),
    "repeated keys": (lambda: tokens(grouped_query(False), **projections(8, 4, 4)), {"patch": 8}),
    "attention with a bias": (
        lambda: tokens(biased, qkv=nn.Linear(8, 20), biases=weight(2, 4), out=nn.Linear(12, 8)),
        {"patch": 8},
    ),
    "attention with slopes": (lambda: tokens(sloped, **projections(8, 8, 8)), {"patch": 8}),
    "rotary halves": (lambda: tokens(rotary(rotated), **projections(8, 8, 8)), {"patch": 8}),
    "rotary pairs": (lambda: tokens(rotary(turned), **projections(8, 8, 8)), {"patch": 8}),
    "dropout that is always on": (lambda: doing(lambda x: F.dropout(F.dropout2d(x, 0.2), 0.5)), {"a": 8}),
}

# the free groups that `attention=True` adds
PACKED = {"[0]:blocks": 2, "[0]:within": 4, "[2]:within": 4}
ATTENTIVE: dict[str, dict[str, int]] = {
    "packed attention": {"qkv[0]:blocks": 2, "qkv[0]:within": 4, "qkv[2]:within": 4},
    "attention by einsum": {"q": 2, "q#2": 4, "v": 4},
    "interleaved attention": {"qkv:blocks": 2, "qkv:within[0]": 4, "qkv:within[1][1]": 4},
    "attention of torch": {f"attend.in_proj_weight{part}": n for part, n in PACKED.items()},
    "shared keys": {"q:blocks:blocks": 2, "q:blocks:within": 2, "q:within": 2, "v": 2},
    "repeated keys": {"q:blocks[0]": 2, "q:blocks[1]": 2, "q:within": 2, "v": 2},
    "attention with a bias": {"qkv:blocks": 2, "qkv:within[0]": 2, "qkv:within[1][1]": 6},
    "attention with slopes": {"q": 4, "v": 4},
    "rotary halves": {"q": 2, "v": 4},
    "rotary pairs": {"q": 2, "v": 4},
    "encoder layer": {f"layer.self_attn.in_proj_weight{part}": n for part, n in PACKED.items()},
}

# axes that stay in place even with `attention=True`, and the reason
ORDERED: dict[str, tuple[str, str]] = {
    "rotary halves": ("q.weight[0]", "aten::mul joins it with an axis of fixed order"),
    "rotary pairs": ("k.weight[0]", "aten::polar joins it with an axis of fixed order"),
    "attention with slopes": ("v.weight[0]", "aten::sub joins it with an axis of fixed order"),
}

# networks in which an operation fixes the channels of `a`, and words of the reason
FIXED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "cumulated": (lambda: doing(lambda x: x.cumsum(1)), "aten::cumsum depends on its order"),
    "sorted": (lambda: doing(lambda x: x.sort(1).values), "aten::sort depends on its order"),
    "flipped": (lambda: doing(lambda x: x.flip(1)), "aten::flip depends on its order"),
    "rolled": (lambda: doing(lambda x: x.roll(1, 1)), "aten::roll depends on its order"),
    "undecided": (
        lambda: Net(undecided, a=conv(3, 4), b=conv(4, 4), fc=nn.Linear(4, 5)),
        "the network reads a value that depends on its input",
    ),
    "branching": (
        lambda: Net(branching, a=conv(3, 4), b=conv(4, 4), c=conv(4, 4), fc=nn.Linear(4, 5)),
        "the network reads a value that depends on its input",
    ),
    "branching on two answers": (
        lambda: Net(branching_on_two, a=conv(3, 8), b=conv(8, 5)),
        "aten::cumsum depends on its order",
    ),
    "written through a view": (
        lambda: Net(written_through_a_view, a=conv(3, 8), b=conv(8, 5)),
        "aten::cumsum depends on its order",
    ),
    "warnings of activations": (
        lambda: Net(warned_of_activations, a=conv(3, 8), b=conv(8, 5)),
        "the network reads a value that depends on its input",
    ),
    "sized by the input": (
        lambda: Net(sized_by_pixels, a=conv(3, 8), b=conv(8, 5)),
        "the network reads a value that depends on its input",
    ),
    "equal activations": (
        lambda: doing(lambda x: x if torch.equal(x, x.roll(1, 0)) else 2 * x),
        "the network reads a value that depends on its input",
    ),
    "other bits": (
        lambda: doing(lambda x: x * (x.detach().view(torch.int64 if x.dtype == torch.float64 else torch.int32) > 0)),
        "aten::view reinterprets its bits as another dtype",
    ),
    "looked up": (lambda: doing(lambda x: x[:, [3, 2, 1, 0]], 4), "aten::index indexes it by position"),
    "every other": (lambda: doing(lambda x: x[:, ::2], 4), "aten::slice takes one of every 2 positions of it"),
    "place of the largest": (
        lambda: doing(lambda x: x * x.argmax(1, keepdim=True)),
        "aten::argmax returns positions on it",
    ),
    "unknown": (lambda: doing(lambda x: x.renorm(2, 1, 1.0)), "aten::renorm has no rule"),
    "frequencies of channels": (
        lambda: doing(lambda x: torch.fft.fft(x, dim=1).real),
        "aten::_fft_r2c depends on its order",
    ),
    "back from frequencies": (
        lambda: doing(lambda x: torch.fft.irfft(x, 14, 1), 14),
        "aten::_fft_c2r depends on its order",
    ),
    "read as coordinates": (
        lambda: Net(
            lambda n, x: n.b(F.grid_sample(x, n.a(x).permute(0, 2, 3, 1), align_corners=False)).mean((2, 3)),
            a=conv(3, 2),
            b=conv(3, 5),
        ),
        "aten::grid_sampler_2d reads coordinates from it",
    ),
    "another part of the memory": (
        lambda: doing(
            lambda x: x[:, :4].as_strided((len(x), 4, 8, 8), x.stride(), x.storage_offset() + x.stride(1) * 4), 4
        ),
        "aten::as_strided reads from another place in memory",
    ),
    "windows of channels": (
        lambda: doing(lambda x: x.unfold(1, 3, 1).mean(-1), 6),
        "aten::unfold treats it as a spatial dimension",
    ),
    "windows over channels and rows": (
        lambda: doing(
            lambda x: (
                F.unfold(x.transpose(1, 2), (3, 1), padding=(1, 0))
                .unflatten(1, (8, 3))
                .mean(2)
                .unflatten(2, (8, 8))
                .transpose(1, 2)
            )
        ),
        "aten::im2col treats it as a spatial dimension",
    ),
    "half of channels and rows": (
        lambda: doing(lambda x: x.transpose(2, 3).movedim(1, 2).tril().movedim(2, 1)),
        "aten::tril depends on its order",
    ),
    "gathered channels": (
        lambda: doing(lambda x: x.gather(1, torch.zeros_like(x, dtype=torch.int64) + 3)),
        "aten::gather indexes it by position",
    ),
    "pixels gathered by channel": (
        lambda: doing(lambda x: x.gather(3, (torch.arange(8)[:, None, None] % 5).expand_as(x))),
        "aten::gather joins it with an axis of fixed order",
    ),
    "selected channels": (
        lambda: doing(lambda x: x.index_select(1, torch.arange(8)), 8),
        "aten::index_select indexes it by position",
    ),
    "added to channels": (
        lambda: doing(lambda x: torch.zeros_like(x).index_add(1, torch.arange(8) % 3, x)),
        "aten::index_add joins it with an axis of fixed order",
    ),
    "scattered over channels": (
        lambda: doing(
            lambda x: torch.zeros_like(x).scatter_add(1, (torch.arange(8) % 3)[:, None, None].expand_as(x), x)
        ),
        "aten::scatter_add joins it with an axis of fixed order",
    ),
    "a constant that no checkpoint has": (
        lambda: between(Keeping(scaled, kept=weight(8).detach(), persistent=False)),
        "aten::mul in layer 'layer' joins it with an axis of fixed order",
    ),
    "kept places": (
        lambda: between(Keeping(lambda n, x: x[:, n.kept], kept=torch.arange(8).flip(0))),
        "aten::index in layer 'layer' indexes it by position",
    ),
    "kept and looked up": (
        lambda: between(Keeping(lambda n, x: scaled(n, x) + n.kept[[0, 3]].mean(), kept=weight(8).detach())),
        "aten::index in layer 'layer' indexes it by position",
    ),
    "put to channels": (
        lambda: doing(lambda x: torch.index_put(x, (torch.tensor(0), torch.tensor([1, 2])), x[0, :2] * 2)),
        "aten::index_put indexes it by position",
    ),
    "a constant of each": (
        lambda: doing(lambda x: x * torch.arange(8.0, dtype=x.dtype).view(8, 1, 1)),
        "aten::mul joins it with an axis of fixed order",
    ),
    "channels meet columns": (
        lambda: doing(lambda x: x + x.mean((2, 3))[0]),
        "aten::add joins it with an axis of fixed order",
    ),
    "windows over channels": (
        lambda: doing(lambda x: F.max_pool3d(x[:, None].contiguous(), 2)[:, 0], 4),
        "aten::max_pool3d_with_indices treats it as a spatial dimension",
    ),
    "swapped halves of another width": (
        lambda: Net(
            lambda n, x: n.c(torch.cat([n.a(x), n.b(x)], 1).cumsum(1)).mean((2, 3)),
            a=conv(3, 4),
            b=conv(3, 2),
            c=conv(6, 5),
        ),
        "aten::cumsum depends on its order",
    ),
    "with the input": (
        lambda: Net(lambda n, x: n.b((n.a(x) + x).relu()).mean((2, 3)), a=conv(3, 3), b=conv(3, 5)),
        "it is the network's input",
    ),
}

# networks that take one of several branches by what Python reads of their input, and their free groups
BRANCHED: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "branching on the input": (
        lambda: Net(branching_on_pixels, a=conv(3, 4), b=conv(4, 4), c=conv(4, 4), fc=nn.Linear(4, 5)),
        {"a": 4, "c": 4},
    ),
    "the same operations on others": (
        lambda: Net(other_operand, a=conv(3, 8), b=conv(8, 5), c=conv(8, 8), d=conv(8, 8)),
        {"a": 8},
    ),
    "a question after another": (
        lambda: Net(asked_further, a=conv(3, 8), b=conv(8, 5)),
        {"a": 8},
    ),
}
