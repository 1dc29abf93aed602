"""A few tries of every battery on one set of artefacts, in a minute or two; what CI runs.

python benchmarks/battery/short.py --seed 0
"""

from __future__ import annotations

import argparse
import shutil
import sys

import corruption
import crafted
import faults
import kills
import odd_commands
from commands import scratch, table, warm
from made import made


def main() -> int:
    """Make once, then a little of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    warm()
    place = scratch("battery")
    ready = made(place / "made")
    found = {
        "corruption": corruption.tries(ready, place, 26, seed),
        "crafted": crafted.crafted(ready, place, every=17, slowest_s=10.0)[:2],
        "kills": kills.tries(ready, place, 13, seed),
        "odd commands": odd_commands.calls(ready, place, 48, seed),
        "faults": faults.faults(ready, place, kinds=("ranking",)),
    }
    for name, (counts, bad) in found.items():
        print(f"{name}\n{table(counts, 'kind')}\n")
        for line in bad:
            print(f"{name}: {line}", file=sys.stderr)
    shutil.rmtree(place)
    return 1 if any(bad for _counts, bad in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
