"""A tiny model trained with torch.nn and with ours, from the same weights, stays together to rounding."""

import copy

import pytest
import torch
from helpers import LAYERS, flat, without_cudnn

import fusedrnn

STEPS = 40


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small gain nothing from threads, which on a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Forecaster(torch.nn.Module):
    """Two recurrent layers and a linear head that predicts the next value."""

    def __init__(self, kind):
        super().__init__()
        name, kwargs = LAYERS[kind]
        self.layers = getattr(torch.nn, name)(1, 12, num_layers=2, dropout=0.1, batch_first=True, **kwargs)
        self.head = torch.nn.Linear(12, 1)

    def forward(self, x, hx=None):
        y, hx = self.layers(x, hx)
        return self.head(y), hx


def series(dtype, device):
    t = torch.arange(8 * 33, dtype=torch.float64).view(8, 33)
    return ((t / 5).sin() + 0.3 * (t / 3).cos()).unsqueeze(-1).to(dtype=dtype, device=device)


def pair(kind, dtype, device):
    model = Forecaster(kind).to(dtype=dtype, device=device)
    return model, fusedrnn.convert(copy.deepcopy(model), report=None)


def losses(model, chunks):
    """Train on chunks, carrying the state across the chunks of one step, and return the loss of every step."""
    optimizer, history = torch.optim.Adam(model.parameters(), lr=0.01), []
    torch.manual_seed(1)  # the same dropout
    for _ in range(STEPS):
        hx, total = None, 0.0
        for chunk in chunks:
            prediction, hx = model(chunk[:, :-1], hx)
            loss = torch.nn.functional.mse_loss(prediction, chunk[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hx = tuple(s.detach() for s in hx) if isinstance(hx, tuple) else hx.detach()
            total += loss.item()
        history.append(total)
    return torch.tensor(history, dtype=torch.float64)


@pytest.mark.parametrize("chunks", [1, 4], ids=["whole", "truncated"])
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-9), (torch.float32, 1e-3)], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_training_stays_together(kind, dtype, bound, chunks, device):
    torchs, ours = pair(kind, dtype, device)
    data = series(dtype, device).chunk(chunks, 1)
    with without_cudnn():  # which draws another dropout
        theirs, mine = losses(torchs, data), losses(ours, data)
    assert theirs[-1] < 0.5 * theirs[0]  # it learns
    assert ((mine - theirs).abs() / theirs).max() < bound
    for m, t in zip(ours.parameters(), torchs.parameters()):
        assert (m - t).abs().max() < bound * t.abs().max()


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_training_a_cell_step_by_step_stays_together(name, device):
    torchs = torch.nn.ModuleList([getattr(torch.nn, name)(1, 12), torch.nn.Linear(12, 1)]).double().to(device)
    ours = fusedrnn.convert(copy.deepcopy(torchs), report=None)
    data, histories = series(torch.float64, device).transpose(0, 1), []
    for cell, head in (torchs, ours):
        optimizer, history = torch.optim.SGD([*cell.parameters(), *head.parameters()], lr=0.1), []
        for _ in range(STEPS):
            hx, predictions = None, []
            for x in data[:-1]:
                hx = cell(x, hx)
                predictions.append(head(flat(hx)[0]))
            loss = torch.nn.functional.mse_loss(torch.stack(predictions), data[1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        histories.append(torch.tensor(history, dtype=torch.float64))
    assert histories[0][-1] < 0.5 * histories[0][0]
    assert ((histories[1] - histories[0]).abs() / histories[0]).max() < 1e-9
