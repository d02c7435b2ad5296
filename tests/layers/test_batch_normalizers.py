"""Normalizers of the batch family against their formulas in float64, over several batches.

Axes: N clips, C channels, G groups, T frames, H height, W width; M batches of a history.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from clip_case import LAYOUTS, Case, spread
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers import make_normalizer

EPS = 1e-5
MOMENTUM = 0.3
SUB_BATCH_CLIPS = 2
HISTORY_BATCHES = 2
# The bound of r is 1, 2, 3 and that of d 0, 1, 1 in the first batches.
RENORM = {
    "renorm_max_scale": 3.0,
    "renorm_max_shift": 1.0,
    "renorm_hold_steps": 0,
    "renorm_scale_steps": 2,
    "renorm_shift_steps": 1,
}
NUM_BATCHES = 4
FAMILY = (
    "batch",
    "sync_batch",
    "frozen_batch",
    "sub_batch",
    "batch_renorm",
    "moving_average_batch",
    "batch_channel",
)
State = dict[str, torch.Tensor]


CASES = [
    Case(N=5, C=12, G=4, T=3, H=7, W=5),
    Case(N=1, C=6, G=3, T=2, H=3, W=5),
    Case(N=2, C=7, G=1, T=4, H=3, W=3),
]


def mean_of(x: torch.Tensor) -> torch.Tensor:
    return x.mean((0, 2, 3, 4))


def var_of(x: torch.Tensor) -> torch.Tensor:
    return mean_of((x - spread(mean_of(x))) ** 2)


def standardize(x: torch.Tensor) -> torch.Tensor:
    return (x - spread(mean_of(x))) / spread(torch.sqrt(var_of(x) + EPS))


def move(state: State, name: str, value: torch.Tensor) -> None:
    state[name] = (1 - MOMENTUM) * state[name] + MOMENTUM * value.detach()


def clip(value: torch.Tensor, least: float, most: float) -> torch.Tensor:
    return torch.minimum(torch.maximum(value, torch.tensor(least)), torch.tensor(most))


@dataclass
class Reference:
    """A normalizer in training, in float64, from its formula; `state` is as its buffers."""

    name: str
    num_groups: int
    parameters: State
    state: State
    batch: int = 0
    squares: list[torch.Tensor] = field(default_factory=list)
    products: list[torch.Tensor] = field(default_factory=list)

    def take_batch(self, x: torch.Tensor) -> torch.Tensor:
        """y before the activation; moves the state."""
        p = self.parameters
        count = x.numel() // x.shape[1]
        if self.name == "frozen_batch":
            y = (x - spread(self.state["running_mean"])) / spread(
                torch.sqrt(self.state["running_var"] + EPS)
            )
        elif self.name == "batch_channel":
            return self.take_batch_of_batch_channel(x)
        elif self.name == "batch_renorm":
            y = self.renormalize(x)
        else:
            parts = x.split(SUB_BATCH_CLIPS) if self.name == "sub_batch" else (x,)
            y = torch.cat([standardize(part) for part in parts])
            move(self.state, "running_mean", mean_of(x))
            # The statistics of evaluation are those of the whole batch, sub-batches or not.
            move(self.state, "running_var", var_of(x) * count / (count - 1))
        self.batch += 1
        return y * spread(p["weight"]) + spread(p["bias"])

    def renormalize(self, x: torch.Tensor) -> torch.Tensor:
        max_scale, max_shift = [(1, 0), (2, 1), (3, 1), (3, 1)][self.batch]
        sigma = torch.sqrt(self.state["running_var"] + EPS)
        batch_sigma = torch.sqrt(var_of(x) + EPS).detach()
        r = clip(batch_sigma / sigma, 1 / max_scale, max_scale)
        d = clip((mean_of(x).detach() - self.state["running_mean"]) / sigma, -max_shift, max_shift)
        move(self.state, "running_mean", mean_of(x))
        sigma = (1 - MOMENTUM) * sigma + MOMENTUM * batch_sigma
        self.state["running_var"] = sigma**2 - EPS
        return standardize(x) * spread(r) + spread(d)

    def take_batch_of_batch_channel(self, x: torch.Tensor) -> torch.Tensor:
        p, state = self.parameters, self.state
        old_mean = state["running_mean"]
        move(state, "running_mean", mean_of(x))
        move(state, "running_var", mean_of((x - spread(old_mean)) ** 2))
        z = (x - spread(state["running_mean"])) / spread(torch.sqrt(state["running_var"] + EPS))
        z = z * spread(p["batch_weight"]) + spread(p["batch_bias"])
        return normalize_groups(z, self.num_groups, p)

    def differentiate(
        self, x: torch.Tensor, dy: torch.Tensor, activation: str | None, threshold: float
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """y, dx, the parameters' gradients, and dy without what lies close to ReLU's kink."""
        if self.name == "moving_average_batch":
            return self.differentiate_moving_average(x, dy, activation, threshold)
        x = x.clone().requires_grad_()
        for parameter in self.parameters.values():
            parameter.requires_grad_()
        y = self.take_batch(x)
        if activation == "relu":
            dy = dy * (y.abs() > threshold * y.abs().max())
            y = y.clamp(min=0)
        dx, *gradients = torch.autograd.grad(y, (x, *self.parameters.values()), dy)
        return y.detach(), dx, dict(zip(self.parameters, gradients, strict=True)), dy

    def differentiate_moving_average(self, x, dy, activation, threshold):
        weight = self.parameters["weight"].detach()
        self.squares = [*self.squares, mean_of(x**2)][-HISTORY_BATCHES:]
        v = sum(self.squares, torch.zeros(())) / len(self.squares)
        ema = self.state["running_mean_square"]
        r = torch.ones_like(v)
        if self.batch >= HISTORY_BATCHES:
            r = clip(torch.sqrt((v + EPS) / (ema + EPS)), 0.2, 5.0)
        if self.batch == 0:
            self.state["running_mean_square"] = v
        else:
            move(self.state, "running_mean_square", v)
        self.batch += 1
        sigma = spread(torch.sqrt(v + EPS))
        z = x / sigma
        y = z * spread(r * weight) + spread(self.parameters["bias"].detach())
        effective = dy
        if activation == "relu":
            dy = dy * (y.abs() > threshold * y.abs().max())
            effective = dy * (y > 0)
            y = y.clamp(min=0)
        g = effective * spread(weight * r)
        self.products = [*self.products, mean_of(g * z)][-HISTORY_BATCHES:]
        product = sum(self.products, torch.zeros(())) / len(self.products)
        dx = (g - z * spread(product)) / sigma
        axes = (0, 2, 3, 4)
        gradients = {"weight": (effective * z * spread(r)).sum(axes), "bias": effective.sum(axes)}
        return y, dx, gradients, dy


def make_norm(name: str, case: Case, activation=None) -> nn.Module:
    """A normalizer with random parameters and, where they are constant, random statistics."""
    norm = make_normalizer(
        name,
        case.C,
        activation,
        num_groups=case.G,
        eps=EPS,
        momentum=MOMENTUM,
        sub_batch_clips=SUB_BATCH_CLIPS,
        history_batches=HISTORY_BATCHES,
        **RENORM,
    )
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in norm.parameters():
            # bfloat16 holds them exactly, so that a kernel which rounds them does not show.
            parameter.copy_(torch.randn(parameter.shape, generator=generator).bfloat16() + 0.25)
        if name == "frozen_batch":
            norm.get_buffer("running_mean").normal_(generator=generator)
            norm.get_buffer("running_var").uniform_(0.5, 3, generator=generator)
    return norm


def make_reference(name: str, case: Case, norm: nn.Module) -> Reference:
    parameters = {n: p.detach().double() for n, p in norm.named_parameters()}
    state = {n: b.detach().double().clone() for n, b in norm.named_buffers() if "running" in n}
    return Reference(name, case.G, parameters, state)


def make_batches(case: Case, dtype: torch.dtype, mean: float = 0.3):
    """Batches whose mean and deviation change, so that every correction is at work, and clipped."""
    generator = torch.Generator().manual_seed(7)
    for index in range(NUM_BATCHES):
        std = (1.7, 0.4, 9.0, 1.0)[index]
        x = torch.randn(case.shape, generator=generator, dtype=torch.float64) * std
        dy = torch.randn(case.shape, generator=generator, dtype=torch.float64)
        yield (x + mean + 0.5 * index).to(dtype), dy.to(dtype)


# Half a unit in the last place.
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
# Largest error allowed, relative to the largest value of the exact result, in these units. float32:
# a dozen operations on each element, and statistics that were moved from batch to batch. bfloat16
# is computed in float32 and rounded once; 1 % for what precedes it. The gradient of x has a part,
# dy * scale, that is rounded on its own.
OUTPUT_UNITS = {torch.float32: 16, torch.bfloat16: 1.01}
GRADIENT_UNITS = {torch.float32: 16, torch.bfloat16: 2.02}
# Parameters' gradients add products over all positions, in float32 beside any dtype; the error
# grows with the root of their number.
PARAMETER_UNITS = 16


def relative_error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    scale = exact.abs().max().clamp(min=1e-3)
    return ((actual.double() - exact).abs().max() / scale).item()


def evaluate(name: str, norm: nn.Module, num_groups: int, x: torch.Tensor) -> torch.Tensor:
    """The formula of evaluation in float64, from the module's parameters and buffers."""
    tensors = {n: t.detach().double() for n, t in norm.state_dict().items()}
    if name == "moving_average_batch":
        hat = x / spread(torch.sqrt(tensors["running_mean_square"] + EPS))
        return hat * spread(tensors["weight"]) + spread(tensors["bias"])
    deviation = torch.sqrt(tensors["running_var"] + EPS)
    hat = (x - spread(tensors["running_mean"])) / spread(deviation)
    if name != "batch_channel":
        return hat * spread(tensors["weight"]) + spread(tensors["bias"])
    z = hat * spread(tensors["batch_weight"]) + spread(tensors["batch_bias"])
    return normalize_groups(z, num_groups, tensors)


def normalize_groups(z: torch.Tensor, num_groups: int, p: State) -> torch.Tensor:
    """Group normalization with a weight and a bias for each group."""
    clips: list[torch.Tensor] = []
    for clip_z in z:
        groups: list[torch.Tensor] = []
        for g, part in enumerate(clip_z.chunk(num_groups)):
            hat = (part - part.mean()) / torch.sqrt(((part - part.mean()) ** 2).mean() + EPS)
            groups.append(hat * p["weight"][g] + p["bias"][g])
        clips.append(torch.cat(groups))
    return torch.stack(clips)


def collect_errors(
    name: str, case: Case, dtype: torch.dtype, layout, activation, mean: float = 0.3
) -> dict[str, float]:
    """The largest relative error over all batches, of y, of every gradient and of the state."""
    norm = make_norm(name, case, activation).train()
    reference = make_reference(name, case, norm)
    errors: dict[str, float] = {}
    for x, dy in make_batches(case, dtype, mean):
        threshold = 8 * max(mean, 1) * UNIT[dtype]
        y, dx, gradients, kept_dy = reference.differentiate(
            x.double(), dy.double(), activation, threshold
        )
        inputs = x.contiguous(memory_format=layout).requires_grad_()
        actual_y = norm(inputs)
        upstream = kept_dy.to(dtype).contiguous(memory_format=layout)
        actual = torch.autograd.grad(actual_y, (inputs, *norm.parameters()), upstream)

        assert actual_y.dtype == actual[0].dtype == dtype
        assert actual_y.is_contiguous(memory_format=layout)
        assert actual[0].is_contiguous(memory_format=layout)
        found = {"y": relative_error(actual_y.detach(), y), "dx": relative_error(actual[0], dx)}
        for (n, gradient), a in zip(gradients.items(), actual[1:], strict=True):
            found[n] = relative_error(a, gradient)
        for n, value in reference.state.items():
            assert norm.get_buffer(n).dtype == torch.float32
            found[n] = relative_error(norm.get_buffer(n), value)
        errors = {n: max(e, errors.get(n, 0.0)) for n, e in found.items()}
    return errors


def allow(part: str, case: Case, dtype: torch.dtype) -> float:
    if part == "y":
        return OUTPUT_UNITS[dtype] * UNIT[dtype]
    if part == "dx":
        return GRADIENT_UNITS[dtype] * UNIT[dtype]
    return PARAMETER_UNITS * 2.0**-24 * math.sqrt(case.N * case.T * case.H * case.W)


@LAYOUTS
@pytest.mark.parametrize("dtype", list(UNIT), ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", FAMILY)
def test_values_gradients_and_state_equal_the_formula_in_float64(
    name, case, activation, dtype, layout
):
    for part, error in collect_errors(name, case, dtype, layout, activation).items():
        assert error <= allow(part, case, dtype), part


@pytest.mark.parametrize("name", FAMILY)
def test_large_means_cost_no_more_than_their_digits(name):
    case, mean = CASES[0], 1000.0
    # The smallest deviation is 0.4: so many digits of x are its mean's.
    lost = mean / 0.4
    for part, error in collect_errors(
        name, case, torch.float32, torch.contiguous_format, None, mean
    ).items():
        assert error <= lost * 2.0**-24 * 4, part


@LAYOUTS
@pytest.mark.parametrize("dtype", list(UNIT), ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", FAMILY)
def test_evaluation_uses_the_state_and_leaves_it(name, dtype, layout):
    case = CASES[0]
    norm = make_norm(name, case, "relu").train()
    for x, _ in make_batches(case, torch.float32):
        norm(x)
    before = {n: b.clone() for n, b in norm.named_buffers()}
    norm.eval()
    for x, _ in make_batches(case, dtype):
        y = norm(x.contiguous(memory_format=layout))
        exact = evaluate(name, norm, case.G, x.double()).clamp(min=0)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=layout)
        assert relative_error(y.detach(), exact) <= allow("y", case, dtype)
    assert all(torch.equal(before[n], b) for n, b in norm.named_buffers())


@pytest.mark.parametrize("name", FAMILY)
def test_two_forwards_may_come_before_their_backwards(name):
    case = CASES[0]
    (x1, dy1), (x2, dy2), *_ = make_batches(case, torch.float32)
    results: list[list[torch.Tensor]] = []
    for together in (True, False):
        norm = make_norm(name, case, "relu").train()
        x1, x2 = (x.detach().requires_grad_() for x in (x1, x2))
        y1 = norm(x1)
        if together:
            y2 = norm(x2)
            y1.backward(dy1)
        else:
            y1.backward(dy1)
            y2 = norm(x2)
        y2.backward(dy2)
        gradients = [x1.grad, x2.grad, *(p.grad for p in norm.parameters())]
        results.append([g for g in gradients if g is not None] + list(norm.buffers()))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["sync_batch", "frozen_batch", "sub_batch", "batch_renorm"])
def test_state_dicts_are_those_of_batch_norm(name):
    batch = nn.BatchNorm3d(6, momentum=MOMENTUM)
    for seed in range(3):
        batch(torch.randn(2, 6, 2, 3, 3) + seed)
    norm = make_normalizer(name, 6)
    norm.load_state_dict(batch.state_dict())
    x = torch.randn(2, 6, 2, 3, 3)
    torch.testing.assert_close(norm.eval()(x), batch.eval()(x))
    assert list(norm.state_dict()) == list(batch.state_dict())


@pytest.mark.parametrize("name", FAMILY)
def test_reset_restores_the_start(name):
    case = CASES[0]
    fresh, used = (make_normalizer(name, case.C, num_groups=case.G) for _ in range(2))
    for x, dy in make_batches(case, torch.float32):
        used(x).backward(dy)
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.fill_(7)
    reset = used.reset_parameters
    assert callable(reset)
    reset()
    for key, value in fresh.state_dict().items():
        assert torch.equal(used.state_dict()[key], value), key


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("shape", [(2, 6, 3, 3), (2, 5, 2, 3, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_other_shapes_are_named(name, shape, training):
    norm = make_normalizer(name, 6).train(training)
    with pytest.raises(NormalizerError, match=r"it takes \(N, 6, T, H, W\)"):
        norm(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sub_batch", {"sub_batch_clips": 0}, "sub_batch_clips is 0; it must be a positive"),
        ("moving_average_batch", {"history_batches": 0}, "history_batches is 0"),
        ("batch_renorm", {"renorm_max_scale": 0.5}, "max_scale is 0.5; it must be at least 1"),
        ("batch_renorm", {"renorm_max_shift": -1.0}, "max_shift is -1.0; it must be at least 0"),
        ("batch_renorm", {"renorm_hold_steps": -1}, "hold_steps is -1; it must be at least 0"),
        ("batch_channel", {"num_groups": 0}, "num_groups is 0"),
    ],
)
def test_settings_out_of_range_are_named(name, settings, message):
    with pytest.raises(NormalizerError, match=message):
        make_normalizer(name, 8, **settings)
