"""A character-level language model: train on a text, then let it write.

The text is Python's own reference, which `help()` reads, or your file given by --text. The last tenth is held out: bits
per character on it show how well the model predicts text that it was not trained on.
"""

import argparse
import math
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

import fusedrnn


class CharModel(nn.Module):
    """Logits of the next character at every time step: (T, B) indices -> (T, B, characters), and the state."""

    def __init__(self, characters: int, hidden: int):
        super().__init__()
        self.embedding = nn.Embedding(characters, 32)
        self.rnn = fusedrnn.LSTM(32, hidden)
        self.head = nn.Linear(hidden, characters)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None):
        y, state = self.rnn(self.embedding(x), state)
        return self.head(y), state


def loss_of(model: CharModel, text: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of every character after the first; text: (T + 1, B)."""
    logits, _ = model(text[:-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), text[1:].flatten())


@torch.no_grad()
def write(model: CharModel, start: Tensor, length: int, temperature: float) -> list[int]:
    """Sample `length` characters after `start`, one at a time, carrying the state along."""
    logits, state = model(start.unsqueeze(1))
    written = []
    for _ in range(length):
        choice = torch.multinomial((logits[-1, 0] / temperature).softmax(0), 1)
        written.append(choice.item())
        logits, state = model(choice.unsqueeze(1), state)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="hidden size (default: %(default)s)")
    parser.add_argument("--text", type=Path, help="a file to learn from instead")
    args = parser.parse_args()
    torch.manual_seed(0)

    text = args.text.read_text(encoding="utf-8") if args.text else "\n".join(topics[name] for name in sorted(topics))
    alphabet = sorted(set(text))
    index = {character: i for i, character in enumerate(alphabet)}
    data = torch.tensor([index[character] for character in text])
    cut = len(data) * 9 // 10
    windows = data[:cut].unfold(0, 65, 1)  # every stretch of 64 characters and the one after
    held_out = data[cut:].unfold(0, 65, 64).t()  # (65, B): all of it, side by side

    model = CharModel(len(alphabet), args.hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    print(f"{len(text)} characters, {len(alphabet)} different: a blind guess costs {math.log2(len(alphabet)):.2f} bits")
    for step in range(args.steps):
        loss = loss_of(model, windows[torch.randint(len(windows), (32,))].t())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step == 0 or (step + 1) % max(1, args.steps // 6) == 0:
            print(f"step {step + 1:4d}  {loss.item() / math.log(2):.2f} bits per character")
    with torch.no_grad():
        print(f"held out   {loss_of(model, held_out).item() / math.log(2):.2f} bits per character")
    print("sample:")
    print("".join(alphabet[i] for i in write(model, data[:64], 300, temperature=0.7)))


if __name__ == "__main__":
    main()
