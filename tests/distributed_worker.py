"""What each process of test_distributed.py runs under torchrun: training spread over processes against training alone.

Prints one line "agrees: NAME" for each check that holds on this process.
"""

import copy
import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import fusedrnn

T, B, I, H, STEPS = 6, 8, 3, 5, 3


class Model(torch.nn.Module):
    """Every layer and cell in a row; rows of different lengths, and episodes that start inside."""

    def __init__(self):
        super().__init__()
        self.lstm = fusedrnn.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=4)
        self.gru = fusedrnn.GRU(8, H)
        self.rnn = fusedrnn.RNN(H, H)
        self.cell = fusedrnn.LSTMCell(H, H)

    def forward(self, x, lengths, reset):
        x = self.lstm(x, lengths=lengths)[0]
        x = self.rnn(self.gru(x, reset=reset)[0])[0]
        return self.cell(x[-1])[0]


def batch_of(step):
    draw = torch.Generator().manual_seed(step)
    x = torch.randn(T, B, I, generator=draw, dtype=torch.float64)
    lengths = torch.randint(T + 1, (B,), generator=draw)
    return x, lengths, torch.rand(T, B, generator=draw) > 0.8


def train(model, optimizer, steps, part):
    """Train on one part (first, number of parts) of each batch, and return the last gradients by name, whole."""
    at, parts = part
    for step in steps:
        inputs = [value.chunk(parts, -1 if value.dim() < 3 else 1)[at] for value in batch_of(step)]
        optimizer.zero_grad()
        (model(*inputs) - 0.3).square().mean().backward()
        optimizer.step()
    return {name.removeprefix("module."): whole(p.grad) for name, p in model.named_parameters()}


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach().clone()


def weights_of(model):
    return {name.removeprefix("module."): whole(p) for name, p in model.named_parameters()}


def sharded(model):
    for layer in (model.lstm, model.gru, model.rnn, model.cell):
        fully_shard(layer)
    return fully_shard(model)


SPREAD = {"DistributedDataParallel": DistributedDataParallel, "FSDP2": sharded}


def optimizer_of(model):
    return torch.optim.Adam(model.parameters(), lr=0.01)


def state_of(model, optimizer):
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments}


def say(line):
    os.write(1, f"{line}\n".encode())  # in one piece, lest the processes' lines run into each other


def main(folder):
    dist.init_process_group("gloo")
    check(folder)  # whose models are gone when the group goes: the other way round, leaving may wait for ever
    dist.destroy_process_group()
    # Not through the interpreter's end: Gloo's threads outlive the group, and one that lets go of a tensor meanwhile is ended
    # with the process ("terminate called without an active exception", in one of about twenty runs on busy cores).
    os._exit(0)


def check(folder):
    part = dist.get_rank(), dist.get_world_size()
    assert part[1] == 2
    torch.manual_seed(0)
    start = Model().double()
    alone = copy.deepcopy(start)
    optimizer = optimizer_of(alone)
    gradients = train(alone, optimizer, range(STEPS), (0, 1))
    halfway = weights_of(alone)
    later_gradients = train(alone, optimizer, range(STEPS, 2 * STEPS), (0, 1))
    end = weights_of(alone)

    for name, spread in SPREAD.items():
        model = spread(copy.deepcopy(start))
        optimizer = optimizer_of(model)
        torch.testing.assert_close(train(model, optimizer, range(STEPS), part), gradients)
        torch.testing.assert_close(weights_of(model), halfway)
        if name == "FSDP2":
            kept = sum(p.to_local().numel() for p in model.parameters())
            assert kept < 0.7 * sum(p.numel() for p in start.parameters()), "nothing was sharded"
        say(f"agrees: {name}")
        dcp.save(state_of(model, optimizer), checkpoint_id=f"{folder}/{name}")

    for name, spread in SPREAD.items():  # each goes on from the other's checkpoint
        (other,) = SPREAD.keys() - {name}
        torch.manual_seed(1)
        model = spread(Model().double())
        optimizer = optimizer_of(model)
        state = state_of(model, optimizer)
        dcp.load(state, checkpoint_id=f"{folder}/{other}")
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        torch.testing.assert_close(weights_of(model), halfway)
        torch.testing.assert_close(train(model, optimizer, range(STEPS, 2 * STEPS), part), later_gradients)
        torch.testing.assert_close(weights_of(model), end)
        say(f"agrees: {name} from a checkpoint of {other}")


if __name__ == "__main__":
    main(sys.argv[1])
