"""What only a GPU can show: graphs, streams, no waiting for the device, tensors of more than 2^31 elements."""

import pytest
import torch
from helpers import HAS_CUDA, LAYERS, make, outcome, random

import fusedrnn

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device, and a build for it"),
]
STRATEGIES = ["stepwise", "persistent"]


@pytest.fixture(params=STRATEGIES)
def strategy(request):
    with fusedrnn.use_strategy(request.param):
        yield request.param


def ragged(kind, dtype=torch.float32):
    """A layer, its input, and lengths and resets, all on the device."""
    layer = make(kind, 5, 40, dtype=dtype, device="cuda", bidirectional=True)[0]
    x = random(7, 6, 5, dtype=dtype, device="cuda")
    given = {
        "lengths": torch.tensor([7, 3, 0, 5, 1, 7], device="cuda"),
        "reset": torch.rand(7, 6, device="cuda") < 0.2,
    }
    return layer, x, given


@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_waits_for_the_device(kind, strategy):
    layer, x, given = ragged(kind)
    x.requires_grad_()
    layer(x, **given)[0].sum().backward()  # the first call loads the kernels and sets up cuBLAS
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x, **given)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", LAYERS)
def test_a_captured_training_step_replays_with_new_values(kind, strategy):
    layer, x, given = ragged(kind)
    x.requires_grad_()

    def step():
        layer.zero_grad(set_to_none=False)
        x.grad = torch.zeros_like(x)
        y = layer(x, **given)[0]
        y.square().sum().backward()
        return y

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
        given["lengths"].copy_(torch.tensor([1, 7, 7, 0, 4, 2]))
        given["reset"].copy_(~given["reset"])
    graph.replay()
    captured = [y.clone(), x.grad.clone(), *(w.grad.clone() for w in layer.parameters())]
    expected = [step(), x.grad, *(w.grad for w in layer.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(captured, expected))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_runs_on_the_stream_it_is_called_on(kind, strategy):
    layer, x, given = ragged(kind)
    expected = outcome(layer, x, **given)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # whatever ran elsewhere would be done long before
        late = x.clone()
        mine = outcome(layer, late, **given)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(mine[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_repeated_runs_give_the_same_bits(kind, strategy):
    layer, x, given = ragged(kind, torch.bfloat16)
    first = outcome(layer, x, **given)
    for _ in range(20):
        again = outcome(layer, x, **given)
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_more_than_two_to_the_31_elements(strategy):
    T, B, H = 1100, 4096, 128  # T*B*4H = 2.3e9 gates
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB of free device memory")
    layer = fusedrnn.LSTM(1, H, device="cuda", dtype=torch.float16)
    x = torch.randn(T, B, 1, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        y, _ = layer(x)
        few = [0, 1, B // 2, B - 1]
        alone, _ = layer(x[:, few].contiguous())
    torch.testing.assert_close(y[:, few], alone, atol=5e-3, rtol=5e-3)


def test_lengths_may_lie_on_another_device():
    layer, x, lengths = fusedrnn.GRU(5, 9), torch.randn(6, 2, 5), torch.tensor([6, 3])
    expected = layer(x, lengths=lengths)[0]
    torch.testing.assert_close(layer(x, lengths=lengths.cuda())[0], expected)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x, lengths=lengths.cuda())[0], expected)
    torch.testing.assert_close(layer.cuda()(x.cuda(), lengths=lengths)[0].cpu(), expected)


@pytest.mark.parametrize("H", [40, 300])
def test_tf32_is_used_only_where_it_is_allowed(H, strategy):
    layer, _, truth = make("lstm", 5, H, dtype=torch.float32, device="cuda")
    x = random(30, 4, 5, dtype=torch.float32, device="cuda")
    exact = truth(x.double())[0]
    errors = {}
    for allowed in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = allowed
        try:
            errors[allowed] = (layer(x)[0].double() - exact).abs().max().item()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False
    assert errors[False] < 5e-6 and errors[True] < 5e-3
    assert strategy == "stepwise" or errors[True] > 2e-5  # a library that may take TF32 need not
