"""The command line: `python -m fusedrnn info` and `--version`; without either, help."""

from __future__ import annotations

import argparse

from ._version import __version__
from .info import info


def main(arguments: list[str] | None = None) -> None:
    """Run one command of the command line."""
    parser = argparse.ArgumentParser(prog="python -m fusedrnn", description="Fused recurrent layers for PyTorch.")
    parser.add_argument("--version", action="version", version=f"fusedrnn {__version__}")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("info", help="print version, location, build, compiler, torch, devices and threads")
    if parser.parse_args(arguments).command:
        print(info())
    else:
        parser.print_help()


if __name__ == "__main__":
    main()
