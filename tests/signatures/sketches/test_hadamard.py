from __future__ import annotations

import pytest
import torch

from unembed.signatures.sketches import hadamard as module
from unembed.signatures.sketches.hadamard import fwht, hadamard


def sylvester(n: int) -> torch.Tensor:
    """The matrix entry by entry."""
    rows = [[(-1.0) ** (i & j).bit_count() for i in range(n)] for j in range(n)]
    return torch.tensor(rows, dtype=torch.double)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 4, 16, 32, 64, 128, 512, 1024])
def test_is_the_product_with_the_matrix(n: int, dtype: torch.dtype) -> None:
    x = torch.randn(7, n, generator=torch.Generator().manual_seed(n), dtype=dtype)
    got, want = fwht(x), x.double() @ sylvester(n)
    assert got.dtype == dtype
    budget = {torch.float32: 1e-6, torch.float64: 1e-15}[dtype]
    assert (got - want).abs().max() <= budget * n**0.5 * want.abs().max()
    assert torch.equal(hadamard(n, x).double(), sylvester(n))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 0), (2, 3, 4)])
def test_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, 256, generator=torch.Generator().manual_seed(1))
    assert fwht(x).shape == x.shape
    assert torch.allclose(fwht(x), x @ sylvester(256).float(), atol=1e-4)
    apart = torch.randn(256, 5, generator=torch.Generator().manual_seed(2)).T
    assert torch.allclose(fwht(apart), apart @ sylvester(256).float(), atol=1e-4)


@pytest.mark.parametrize("n", [4096, 1 << 15, 1 << 18])
def test_large_ones_by_their_properties(n: int) -> None:
    """Twice is n times x, lengths grow by √n, and a unit vector gives a row; 1e-5 of the size."""
    x = torch.randn(2, n, generator=torch.Generator().manual_seed(n))
    once = fwht(x)
    assert torch.allclose(fwht(once) / n, x, atol=1e-5)
    assert torch.allclose(once.norm(dim=1), n**0.5 * x.norm(dim=1), rtol=1e-5)
    unit = torch.zeros(n)
    unit[12_345 % n] = 1
    row = [(-1) ** (12_345 % n & j).bit_count() for j in range(0, n, 97)]
    assert fwht(unit)[::97].tolist() == row


def test_parts_change_memory_and_not_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(37, 512, generator=torch.Generator().manual_seed(3))
    whole = fwht(x)
    monkeypatch.setattr(module, "PART", 1000)
    assert torch.allclose(fwht(x), whole, rtol=1e-6, atol=1e-5)
    monkeypatch.setattr(module, "PART", 5 * 512)
    assert torch.allclose(fwht(x), whole, rtol=1e-6, atol=1e-5)


def test_whole_numbers_stay_exact() -> None:
    x = torch.randint(-999, 1000, (600, 512), generator=torch.Generator().manual_seed(4))
    assert torch.equal(fwht(x.float()).double(), x.double() @ sylvester(512))


@pytest.mark.parametrize("n", [0, 3, 1000])
def test_refuses_what_is_no_power_of_two(n: int) -> None:
    with pytest.raises(ValueError, match=f"of {n} numbers"):
        fwht(torch.zeros(2, n))
