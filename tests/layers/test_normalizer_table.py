"""Walks the table of normalizers: what each has to work with, in one residual network for all.

What a normalizer computes is tested beside it. Here is what a training relies on, whatever the
normalizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny_residual import (
    NUM_CHANNELS,
    draw_clips,
    make_sgd,
    make_tiny_residual,
    train_a_little,
    train_steps,
)
from torch import nn
from two_processes import run_two_processes

from gnvideo.layers import NORMALIZERS, make_normalizer, normalizer_factory
from gnvideo.training.optimizer import make_parameter_groups

DistributedResults = list[dict[str, Any]]


def check_zero_gamma(name: str) -> None:
    """With the last scale 0 the block is its shortcut, and the scale learns."""
    model = make_tiny_residual(name)
    nn.init.zeros_(model.norm2.get_parameter("weight"))
    nn.init.zeros_(model.norm2.get_parameter("bias"))
    x = torch.randn(3, NUM_CHANNELS, 3, 4, 5)
    assert torch.equal(model.eval().compute_block(x), x)
    y = model.train().compute_block(x)
    assert torch.equal(y, x)

    (y * torch.randn(y.shape)).sum().backward()

    gradient = model.norm2.get_parameter("weight").grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.ne(0).all()


def check_weight_decay(name: str) -> None:
    """Every parameter of a normalizer decays as one, and every convolution's as a weight."""
    model = make_tiny_residual(name)
    groups = make_parameter_groups(model, weight_decay=1e-4, normalizer_weight_decay=0.0)
    names = {id(parameter): path for path, parameter in model.named_parameters()}
    weights, normalizers = ({names[id(p)] for p in group.parameters} for group in groups)
    assert weights == {"stem.weight", "conv1.weight", "conv2.weight", "fc.weight", "fc.bias"}
    assert normalizers == set(names.values()) - weights
    assert {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"} <= normalizers


def check_checkpoint(name: str) -> None:
    """A run that goes on from a file equals one that never stopped, to the bit."""
    unbroken = make_tiny_residual(name)
    optimizer = make_sgd(unbroken)
    train_steps(unbroken, optimizer, range(2))
    weights = safetensors.torch.save(unbroken.state_dict())
    optimizer_state = copy.deepcopy(optimizer.state_dict())
    train_steps(unbroken, optimizer, range(2, 4))

    resumed = make_tiny_residual(name, seed=1)
    resumed.load_state_dict(safetensors.torch.load(weights))
    optimizer = make_sgd(resumed)
    optimizer.load_state_dict(optimizer_state)
    train_steps(resumed, optimizer, range(2, 4))

    expected = unbroken.state_dict()
    assert resumed.state_dict().keys() == expected.keys()
    for key, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    clips = draw_clips(9)
    assert torch.equal(resumed.eval()(clips), unbroken.eval()(clips))


def check_ddp(name: str, results: DistributedResults) -> None:
    """Two processes with clips of their own end with one network, every parameter of it trained."""
    first, second = (result[name] for result in results)
    assert not isinstance(first, str), first
    assert not isinstance(second, str), second
    parameters, gradients = first
    starts = dict(make_tiny_residual(name).named_parameters())
    assert parameters.keys() == starts.keys()
    for path, start in starts.items():
        assert torch.equal(parameters[path], second[0][path]), path
        assert torch.equal(gradients[path], second[1][path]), path
        assert gradients[path].isfinite().all()
        assert not torch.equal(parameters[path], start), path


def check_half(name: str) -> None:
    """Half precision stays what it is, and gradients are those of the same input in float32."""
    model = train_a_little(name)
    dtypes: list[torch.dtype] = []
    for norm in (model.norm1, model.norm2):
        norm.register_forward_hook(lambda module, inputs, y: dtypes.append(y.dtype))
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(draw_clips(9))
    logits.float().square().sum().backward()
    assert dtypes == [torch.bfloat16] * 2
    for parameter in model.parameters():
        assert _get_gradient(parameter).dtype == torch.float32
        assert _get_gradient(parameter).isfinite().all()

    for dtype, rounding in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)):
        x, upstream = (torch.randn(3, NUM_CHANNELS, 3, 4, 5).to(dtype) + 1 for _ in range(2))
        results: list[list[torch.Tensor]] = []
        for used_dtype in (dtype, torch.float32):
            norm = train_a_little(name).norm1
            norm.zero_grad()
            inputs = x.to(used_dtype, copy=True).requires_grad_()
            y = norm(inputs)
            y.backward(upstream.to(used_dtype))
            assert y.dtype == _get_gradient(inputs).dtype == used_dtype
            gradients = [_get_gradient(parameter) for parameter in norm.parameters()]
            results.append([y.detach(), _get_gradient(inputs), *gradients])
        for half, exact in zip(*results, strict=True):
            # The result's own rounding, and that of scale and offset where a kernel rounds them.
            assert (half.float() - exact).norm() < 2 * rounding * exact.norm()


def check_channels_last(name: str) -> None:
    """The layout is kept, forward and backward, and does not change the values."""
    x = torch.randn(3, NUM_CHANNELS, 3, 4, 5)
    upstream = torch.randn(x.shape)
    for training in (True, False):
        results: list[tuple[torch.Tensor, torch.Tensor]] = []
        for memory_format in (torch.contiguous_format, torch.channels_last_3d):
            norm = train_a_little(name).norm1.train(training)
            inputs = x.clone(memory_format=memory_format).requires_grad_()
            y = norm(inputs)
            y.backward(upstream)
            assert y.is_contiguous(memory_format=memory_format)
            results.append((y.detach(), _get_gradient(inputs)))
        for contiguous, channels_last in zip(*results, strict=True):
            torch.testing.assert_close(channels_last, contiguous, rtol=1e-5, atol=1e-5)


def check_compile(name: str) -> None:
    """Training is one graph, without breaks, that computes and counts as the module does."""
    # Else the graphs of the other normalizers count against torch's limit of recompilations.
    torch.compiler.reset()
    results: list[list[torch.Tensor]] = []
    x = torch.randn(3, NUM_CHANNELS, 3, 4, 5)
    upstream = torch.randn(2, *x.shape)
    for compiles in (False, True):
        trained = train_a_little(name)
        trained.zero_grad()
        model = nn.Sequential(trained.conv1, trained.norm1)
        if compiles:
            model.compile(fullgraph=True, backend="aot_eager")
        for step in range(2):
            model(x + step).backward(upstream[step])
        gradients = [_get_gradient(parameter) for parameter in model.parameters()]
        results.append([*gradients, *model.buffers()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def _get_gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


CHECKS: Mapping[str, Callable[..., None]] = {
    "zero_gamma": check_zero_gamma,
    "weight_decay": check_weight_decay,
    "checkpoint": check_checkpoint,
    "ddp": check_ddp,
    "half": check_half,
    "channels_last": check_channels_last,
    "compile": check_compile,
}


@pytest.fixture(scope="module")
def distributed_results(tmp_path_factory: pytest.TempPathFactory) -> DistributedResults:
    """What distributed_normalizers.py leaves: by process, the results by normalizer."""
    folder = tmp_path_factory.mktemp("normalizers")
    script = Path(__file__).with_name("distributed_normalizers.py")
    run_two_processes(script, folder)
    return [torch.load(folder / f"normalizers_{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("feature", CHECKS)
@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normalizer_has_every_feature(
    name: str, feature: str, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    results = [request.getfixturevalue("distributed_results")] if feature == "ddp" else []
    CHECKS[feature](name, *results)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_flags_of_the_table_are_those_of_the_modules(name: str) -> None:
    spec = NORMALIZERS[name]
    x = torch.randn(3, NUM_CHANNELS, 3, 4, 5)
    plain, activated = (
        make_normalizer(name, NUM_CHANNELS, activation, num_groups=4)
        for activation in (None, "relu")
    )
    for path, parameter in activated.named_parameters():
        nn.init.normal_(parameter)
        if path in dict(plain.named_parameters()):
            plain.get_parameter(path).data.copy_(parameter)
    is_relu_of_plain = torch.equal(activated(x), plain(x).clamp(min=0))
    assert is_relu_of_plain == (not spec.replaces_activation)
    conv = normalizer_factory(name).make_conv(2, 2, (1, 3, 3))
    assert type(conv) is spec.conv_type
    assert list(conv.state_dict()) == ["weight"]
