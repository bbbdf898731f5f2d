"""Train one model in several processes: DistributedDataParallel or FSDP2, with checkpoints for any number of processes.

    python examples/train_distributed.py                                                            # one process
    python -m torch.distributed.run --standalone --nproc-per-node 2 examples/train_distributed.py   # two
    python -m torch.distributed.run --standalone --nproc-per-node 2 examples/train_distributed.py --shard

Each process takes its part of each batch, and gradients are averaged, so that the number of processes does not change the
training. With --shard each process keeps only its part of the weights and of the optimizer's moments (FSDP2): it
gathers a module's weights to run it, then drops them. A checkpoint loads into any arrangement, with or without --shard.
With one GPU per process, training runs on the GPUs.
"""

import argparse
import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fusedrnn


class Counter(nn.Module):
    """A logit, after each time step, of an even number of ones so far: (T, B, 1) -> (T, B, 1)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.rnn = fusedrnn.GRU(1, hidden, num_layers=2)
        self.head = nn.Linear(hidden, 1)

    def forward(self, bits: Tensor) -> Tensor:
        return self.head(self.rnn(bits)[0])


def join() -> torch.device:
    """Join the processes that torchrun has started, or be the only one; return this process's device."""
    for name, alone in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29511")):
        os.environ.setdefault(name, alone)
    local = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1)):
        torch.cuda.set_device(local)
        dist.init_process_group("nccl")
        return torch.device("cuda", local)
    dist.init_process_group("gloo")
    return torch.device("cpu")


def spread(model: nn.Module, shard: bool, device: torch.device) -> nn.Module:
    """Let the processes train one model together, from the weights of the first of them."""
    if not shard:
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    mesh = dist.init_device_mesh(device.type, (dist.get_world_size(),))
    fully_shard(model.rnn, mesh=mesh)  # each module that is gathered by itself
    return fully_shard(model, mesh=mesh)  # and the rest


def batch_of(step: int, size: int, length: int) -> tuple[Tensor, Tensor]:
    """The whole batch of a step, the same on every process."""
    bits = torch.randint(2, (length, size, 1), generator=torch.Generator().manual_seed(step)).float()
    return bits, (bits.cumsum(0) % 2 == 0).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="sequences in a batch, of all processes (default: %(default)s)")
    parser.add_argument("--length", type=int, default=12, help="bits of a sequence (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=32, help="units of each layer (default: %(default)s)")
    parser.add_argument("--shard", action="store_true", help="FSDP2 instead of DistributedDataParallel")
    parser.add_argument("--save", metavar="FOLDER", help="write a checkpoint there at the end")
    parser.add_argument("--load", metavar="FOLDER", help="start from the checkpoint there")
    args = parser.parse_args()

    processes = int(os.environ.get("WORLD_SIZE", 1))
    if args.batch < 1 or args.batch % processes:
        parser.error(f"--batch must be a multiple of the {processes} processes, and above 0; got {args.batch}")
    device = join()
    train(args, device)  # whose model is gone when the group goes: the other way round, leaving may wait for ever
    dist.destroy_process_group()


def train(args: argparse.Namespace, device: torch.device) -> None:
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = spread(Counter(args.hidden).to(device), args.shard, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def state() -> dict:
        """Names and values that do not depend on how the model is spread."""
        weights, moments = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": moments}

    if args.load:
        loaded = state()
        dcp.load(loaded, checkpoint_id=args.load)
        set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])

    def say(line: str) -> None:
        if rank == 0:
            print(line, flush=True)

    say(f"{processes} process(es) on {device.type}, {'FSDP2' if args.shard else 'DistributedDataParallel'}")
    for step in range(args.steps):
        bits, even = (part.chunk(processes, 1)[rank].to(device) for part in batch_of(step, args.batch, args.length))
        loss = nn.functional.binary_cross_entropy_with_logits(model(bits), even)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(args.steps // 5, 1) == 0 or step == args.steps - 1:
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            say(f"step {step:4}  loss {mean.item() / processes:.6f}")

    if args.save:
        dcp.save(state(), checkpoint_id=args.save)
        say(f"checkpoint written to {args.save}")


if __name__ == "__main__":
    main()
    # Gloo's threads outlive their group, and one that lets go of a tensor while the interpreter ends is ended by it, and the
    # process with it: "terminate called without an active exception" (pytorch/pytorch#179291). So nothing is left to end.
    sys.stdout.flush()
    os._exit(0)
