"""The command line: `python -m fusedrnn info`."""

from __future__ import annotations

import argparse

from .info import info


def main(arguments: list[str] | None = None) -> None:
    """Run one command of the command line."""
    parser = argparse.ArgumentParser(prog="python -m fusedrnn", description="Fused recurrent layers for PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print version, build, compiler, torch, devices and threads")
    parser.parse_args(arguments)
    print(info())


if __name__ == "__main__":
    main()
