"""One small ragged problem, with lengths and resets that meet in every way."""

import torch

T, B, I, H = 6, 4, 3, 7
LENGTHS = [4, 0, 6, 1]
RESET = torch.tensor(
    # row 1 is cut all over, row 2 never, row 3 in what lengths make padding
    [[1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0]]
).bool()

# name → what is given beside x and the states
OPTIONS = {
    "lengths": {"lengths": LENGTHS},
    "reset": {"reset": RESET},
    "reset to hx": {"reset": RESET, "reset_to": "hx"},
    "lengths and reset": {"lengths": LENGTHS, "reset": RESET},
    "lengths and reset to hx": {"lengths": LENGTHS, "reset": RESET, "reset_to": "hx"},
}
# the layers that they are given to
SHAPES = {"one layer": {}, "two layers, both directions": {"num_layers": 2, "bidirectional": True}}


def given_on(device, option):
    return {key: value.to(device) if key == "reset" else value for key, value in OPTIONS[option].items()}
