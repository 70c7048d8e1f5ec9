"""What every decoder has of its base: the image vector, standardised."""

import torch

from captioner.decoders.base import Standardization


def test_standardised_vectors_have_mean_0_and_deviation_1():
    v_BD = 3 + torch.tensor([0.0, 2.0, 4.0]).double() * torch.randn(50, 3).double()
    standard = Standardization(3).double()
    assert torch.equal(standard(v_BD), v_BD)
    standard.fit(v_BD)
    seen_BD = standard(v_BD)
    torch.testing.assert_close(seen_BD.mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(seen_BD.square().mean(), torch.tensor(1.0).double())
    expected_D = v_BD.std(0) / v_BD.std(0)[1]  # the entries keep their proportions
    torch.testing.assert_close(seen_BD.std(0) / seen_BD.std(0)[1], expected_D)


def test_vectors_that_never_differ_become_0():
    standard = Standardization(3)
    standard.fit(torch.full((5, 3), 2.0))
    assert torch.equal(standard(torch.full((1, 3), 2.0)), torch.zeros(1, 3))
