from __future__ import annotations

import torch

from ssl3d.pipeline.training.generators import generator_states, own_generators, set_generators

CPU = torch.device("cpu")


def test_a_state_that_is_a_row_of_a_tensor_is_restored() -> None:
    """As the states of several processes come out of a checkpoint."""
    torch.manual_seed(3)
    state = generator_states(CPU)["cpu"]
    expected = torch.rand(4)
    set_generators({"cpu": torch.stack([torch.zeros_like(state), state])[1]}, CPU)
    assert torch.equal(torch.rand(4), expected)


def test_every_process_but_the_first_draws_other_numbers() -> None:
    drawn = []
    for rank, step in ((0, 0), (1, 0), (2, 0), (1, 5)):
        torch.manual_seed(3)
        own_generators(3, rank, step)
        drawn.append(torch.rand(4).tolist())
    torch.manual_seed(3)
    assert drawn[0] == torch.rand(4).tolist()
    assert len({tuple(values) for values in drawn}) == 4
