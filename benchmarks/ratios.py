"""Draw the newest ratio of each row that a history of `tutelage bench --record` holds, on a CPU.

python benchmarks/ratios.py benchmarks/history.jsonl docs/images/ratios.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tutelage.bench.figure import check_figure, draw_ratios
from tutelage.errors import TutelageError


def newest(history: Path, model: str) -> dict[str, Any]:
    """Figures by row."""
    found: dict[str, Any] = {}
    for line in history.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        if one["settings"]["model"] == model and not one["machine"]["cuda"]:
            found |= {name: row for name, row in one.get("rows", {}).items() if row["ratio"]}
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("history", type=Path)
    parser.add_argument("figure", type=Path)
    given = parser.parse_args()
    try:
        check_figure(given.figure)
        draw_ratios(newest(given.history, "smollm2-135m"), given.figure)
    except (TutelageError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
