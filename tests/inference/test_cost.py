"""The meter counts every slice a network is shown, and its arithmetic as the convolution's own formula gives it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inference.cost import Meter, Shape

CPU = torch.device("cpu")


@pytest.mark.feature("L6")
def test_slices_and_arithmetic_are_counted_while_entered_and_not_after() -> None:
    network = nn.Conv2d(2, 5, kernel_size=3, padding=1, bias=False)

    with Meter({"only": network}, CPU, {}) as meter:
        network(torch.zeros(4, 2, 10, 12))
        network(torch.zeros(3, 2, 20, 12))
    network(torch.zeros(9, 2, 10, 12))

    cost = meter.cost()
    per_pixel = 2 * 3 * 3 * 2 * 5  # two operations per multiply-add
    assert cost.network_evaluations == 7
    assert cost.gflop == pytest.approx(per_pixel * (4 * 120 + 3 * 240) / 1e9)
    assert (cost.device, cost.dtype) == ("cpu", "float32")


def test_measuring_the_arithmetic_is_not_itself_counted() -> None:
    network = nn.Conv2d(1, 1, 1)

    with Meter({"only": network}, CPU, {}) as meter:
        network(torch.zeros(2, 1, 4, 4))

    assert [meter.cost().network_evaluations for _ in range(2)] == [2, 2]


def test_a_known_shape_is_not_measured_again() -> None:
    known: dict[Shape, int] = {("only", (((1, 4, 4), torch.float32),), False): 10**9}
    network = nn.Conv2d(1, 1, 1)

    with Meter({"only": network}, CPU, known) as meter:
        network(torch.zeros(2, 1, 4, 4))

    assert meter.cost().gflop == 2.0


def test_networks_are_counted_together_and_hooks_are_taken_off_after_an_error() -> None:
    first, second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    meter = Meter({"first": first, "second": second}, CPU, {})

    def failing() -> None:
        with meter:
            first(torch.zeros(2, 1, 4, 4))
            second(torch.zeros(3, 1, 4, 4))
            second(torch.zeros(3, 7, 4, 4))

    with pytest.raises(RuntimeError):
        failing()
    second(torch.zeros(1, 1, 4, 4))

    assert not first._forward_pre_hooks
    assert not second._forward_pre_hooks
    assert meter._slices.total() == 8


def test_a_pass_backwards_to_the_input_is_counted() -> None:
    network = nn.Conv2d(1, 3, kernel_size=3, padding=1, bias=False)

    with Meter({"only": network}, CPU, {}) as meter:
        x = torch.zeros(2, 1, 8, 8, requires_grad=True)
        torch.autograd.grad(network(x).sum(), x)

    forward = 2 * 2 * 9 * 3 * 64  # slices, two operations per multiply-add, kernel, channels, pixels
    assert meter.cost().network_evaluations == 2
    assert meter.cost().gflop == pytest.approx(2 * forward / 1e9)  # back to the input costs as much as forward


def test_a_network_that_is_told_a_class_is_measured_with_one() -> None:
    network = nn.Embedding(3, 4)

    with Meter({"classes": network}, CPU, {}) as meter:
        network(torch.tensor([0, 2]))

    assert meter.cost().network_evaluations == 2
