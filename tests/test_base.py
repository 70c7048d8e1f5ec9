"""What every decoder has of its base: the image vector, standardised."""

import torch

from captioner.decoders.base import Standard


def test_standardised_vectors_have_mean_0_and_deviation_1():
    v_BD = 3 + torch.tensor([1.0, 2.0, 4.0]).double() * torch.randn(50, 3).double()
    standard = Standard(3).double()
    assert torch.equal(standard(v_BD), v_BD)
    standard.fit(v_BD)
    std_D, mean_D = torch.std_mean(standard(v_BD), dim=0, correction=0)
    torch.testing.assert_close(mean_D, torch.zeros(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(std_D, torch.ones(3).double())


def test_an_entry_that_hardly_ever_differed_is_not_blown_up():
    v_BD = torch.randn(50, 100).double()
    v_BD[:, 0] = 7
    v_BD[:, 1] *= 1e-6
    standard = Standard(100).double()
    standard.fit(v_BD)
    assert (standard(v_BD + 1)[:, :2].abs() < 11).all()


def test_vectors_that_never_differ_become_0():
    standard = Standard(3)
    standard.fit(torch.full((5, 3), 2.0))
    assert torch.equal(standard(torch.full((1, 3), 2.0)), torch.zeros(1, 3))
