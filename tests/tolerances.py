"""How far a result may be from the truth, for all tests.

The truth is computed in float64. The yardstick is PyTorch's own error in the same dtype: ours may be FACTOR times
as large, and a few roundings (FLOOR, in units of the dtype's eps and of the truth's largest value) for the
cases where PyTorch happens to be exact, which in float64 is always.
"""

import torch

FACTOR = 3.0
FLOOR = {torch.float64: 64.0, torch.float32: 8.0, torch.bfloat16: 2.0, torch.float16: 2.0}


def assert_close(ours, torchs, truth, name):
    """Assert that ours is as near to truth as torchs is, give or take the table; all of one shape."""
    assert ours.shape == torchs.shape == truth.shape, f"{name}: shapes {ours.shape}, {torchs.shape}, {truth.shape}"
    assert ours.dtype == torchs.dtype, f"{name}: dtypes {ours.dtype}, {torchs.dtype}"
    assert truth.dtype == torch.float64, f"{name}: the truth must be float64; got {truth.dtype}"
    if not truth.numel():
        return
    error = (ours.double() - truth).abs()
    eps = torch.finfo(ours.dtype).eps
    bound = FACTOR * (torchs.double() - truth).abs().max() + FLOOR[ours.dtype] * eps * truth.abs().max()
    worst = tuple(int(i) for i in torch.unravel_index(error.nan_to_num(nan=torch.inf).argmax(), error.shape))
    assert error[worst] <= bound, (
        f"{name}{list(worst)}: {ours[worst].item()} instead of {truth[worst].item()}, "
        f"error {error[worst].item():.3g} over the bound {bound.item():.3g}"
    )


def assert_all_close(ours, torchs, truth):
    """Assert `assert_close` for every entry of three dicts with the same names."""
    assert ours.keys() == torchs.keys() == truth.keys()
    for name in truth:
        assert_close(ours[name], torchs[name], truth[name], name)
