"""Draw the newest ratio of each row that a history of `tutelage bench --record` holds, on a CPU.

python benchmarks/ratios.py benchmarks/history.jsonl docs/images/ratios.png
"""

import json
import sys
from pathlib import Path
from typing import Any

from tutelage.bench.figure import draw_ratios


def newest(history: Path, model: str) -> dict[str, Any]:
    """Figures by row."""
    found: dict[str, Any] = {}
    for line in history.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        if one["settings"]["model"] == model and not one["machine"]["cuda"]:
            found |= one.get("rows", {})
    return found


if __name__ == "__main__":
    draw_ratios(newest(Path(sys.argv[1]), "smollm2-135m"), Path(sys.argv[2]))
