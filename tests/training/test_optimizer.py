from __future__ import annotations

import pytest
import torch
from tiny_training import make_tiny_model
from torch import nn

from gnvideo.layers import make_normalizer
from gnvideo.training.optimizer import make_optimizer, make_parameter_groups
from gnvideo.training.sgd import ParameterGroup, Sgd


def name_groups(model: nn.Module) -> dict[str, tuple[float, list[str]]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_parameter_groups(model, weight_decay=1e-4, normalizer_weight_decay=1e-6)
    return {
        group.role: (group.weight_decay, [names[id(p)] for p in group.parameters])
        for group in groups
    }


@pytest.mark.parametrize("normalizer", ["batch", "group"])
def test_every_parameter_is_in_the_group_of_its_role_once(normalizer: str) -> None:
    assert name_groups(make_tiny_model(normalizer)) == {
        "weights": (1e-4, ["0.weight", "6.weight", "6.bias"]),
        "normalizers": (1e-6, ["1.weight", "1.bias"]),
    }


def test_a_shared_normalizer_counts_once() -> None:
    shared = make_normalizer("group", 4, num_groups=2)
    model = nn.Sequential(nn.Conv3d(4, 4, 1), shared, nn.Conv3d(4, 4, 1), shared)
    groups = name_groups(model)
    assert groups["normalizers"][1] == ["1.weight", "1.bias"]
    assert groups["weights"][1] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("normalizer", ["batch", "group"])
def test_without_gradients_only_decay_moves_parameters_each_group_by_its_own(
    normalizer: str,
) -> None:
    model = make_tiny_model(normalizer)
    optimizer = make_optimizer(
        model, momentum=0.0, nesterov=True, weight_decay=0.5, normalizer_weight_decay=0.0
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.1)
    for name, parameter in model.named_parameters():
        kept = 1.0 if name.startswith("1.") else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), before[name] * kept)
    optimizer.clear_gradients()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_follow_the_formula(momentum: float, nesterov: bool) -> None:
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    without_gradient = nn.Parameter(torch.ones(1))
    group = ParameterGroup("weights", (weight, without_gradient), weight_decay=0.25)
    optimizer = Sgd([group], momentum=momentum, nesterov=nesterov)
    expected, velocity = 2.0, 0.0
    for gradient, rate in ((1.0, 0.1), (-3.0, 0.1), (0.5, 0.01)):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step(rate)
        decayed = gradient + 0.25 * expected
        velocity = momentum * velocity + decayed
        expected -= rate * (decayed + momentum * velocity if nesterov else velocity)
        assert weight.item() == pytest.approx(expected, rel=1e-12)
    assert without_gradient.item() == 1


def test_steps_equal_those_of_torchs_class_and_go_on_from_a_saved_state() -> None:
    models = [make_tiny_model("group").to(memory_format=torch.channels_last_3d) for _ in range(2)]
    optimizer = make_optimizer(
        models[0], momentum=0.9, nesterov=True, weight_decay=1e-2, normalizer_weight_decay=1e-3
    )
    groups = make_parameter_groups(models[1], weight_decay=1e-2, normalizer_weight_decay=1e-3)
    peer = torch.optim.SGD(
        [{"params": g.parameters, "weight_decay": g.weight_decay} for g in groups],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for own, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            other.grad = own.grad.clone()
        state = optimizer.state_dict()
        optimizer = make_optimizer(
            models[0], momentum=0.9, nesterov=True, weight_decay=1e-2, normalizer_weight_decay=1e-3
        )
        optimizer.load_state_dict(state)
        optimizer.step(0.1)
        peer.step()
        for own, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(own, other)


def test_the_state_of_other_parameters_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = Sgd([ParameterGroup("weights", (weight,), 0.0)], momentum=0.9, nesterov=True)
    for velocities in ([], [torch.ones(3)], [None, None]):
        with pytest.raises(ValueError, match="of other parameters"):
            optimizer.load_state_dict({"velocities": velocities})
