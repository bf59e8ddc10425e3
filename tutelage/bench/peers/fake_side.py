"""The fake: a side that trains nothing, and takes a hundredth of a second a step.

python fake_side.py TASK.json
"""

import json
import sys
import time
from pathlib import Path

from turns import Turns

task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
turns = Turns()
turns.ready(fake="1")
for number in range(task["total_steps"]):
    time.sleep(0.01)
    turns.step(last=number + 1 == task["total_steps"])
turns.finish()
