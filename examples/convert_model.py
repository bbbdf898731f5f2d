"""Convert a torch.nn model in place, continue training, and convert it back, with the same optimizer.

`fusedrnn.convert` changes only the classes of the recurrent modules. Parameters stay the same objects, so an existing
optimizer keeps its moments, and state_dicts load both ways. A copy of the model that stays with torch.nn is trained on
the same batches: the two must agree up to rounding.
"""

import argparse
import copy

import torch
from torch import Tensor, nn

import fusedrnn


class Tagger(nn.Module):
    """A tag for every token, written for torch.nn: (B, T) -> (B, T, tags)."""

    def __init__(self, tokens: int = 20, tags: int = 2):
        super().__init__()
        self.embedding = nn.Embedding(tokens, 16)
        self.rnn = nn.GRU(16, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(64, tags)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> float:
    """Learn whether a token is larger than the one before it; return the last loss."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        tokens = torch.randint(20, (16, 24), generator=random)
        tags = (tokens > tokens.roll(1, dims=1)).long()
        tags[:, 0] = 0
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tags.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="training steps in each phase (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)

    model = Tagger()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    twin_optimizer = torch.optim.Adam(twin.parameters(), lr=3e-3)
    before = list(model.parameters())

    def phase(seed: int) -> None:
        loss = train(model, optimizer, args.steps, seed)
        twin_loss = train(twin, twin_optimizer, args.steps, seed)
        kind = type(model.rnn)
        print(f"  loss {loss:.6f} with {kind.__module__}.{kind.__name__}, {twin_loss:.6f} with the torch.nn twin")

    print("as written")
    phase(seed=1)
    print("fusedrnn.convert(model)")
    fusedrnn.convert(model, report=lambda line: print(f"  {line}"))
    phase(seed=2)
    print("fusedrnn.revert(model)")
    fusedrnn.revert(model, report=lambda line: print(f"  {line}"))
    phase(seed=3)

    print(f"parameters are the same objects throughout: {all(a is b for a, b in zip(before, model.parameters()))}")
    apart = max((a - b).abs().max().item() for a, b in zip(model.parameters(), twin.parameters()))
    print(f"largest difference from the twin's parameters: {apart:.1e}")


if __name__ == "__main__":
    main()
