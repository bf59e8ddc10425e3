"""transformers' `generate`, sampling at temperature 1, with a growing or a preallocated cache.

python transformers_side.py TASK.json
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
from turns import Turns

transformers.logging.set_verbosity_error()
task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
turns = Turns()
dtype = torch.bfloat16 if task["dtype"] == "bfloat16" else torch.float32
model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype).eval()
if torch.cuda.is_available():
    model.to("cuda")
model.generation_config.eos_token_id = None
options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 2}
if task["way"] in ("static", "compiled"):
    options |= {"cache_implementation": "static", "disable_compile": task["way"] == "static"}
if task["way"] == "compiled" and model.device.type == "cpu":  # on accelerators generate() compiles by itself
    model.forward = torch.compile(model.forward, dynamic=False)


class Limits(StoppingCriteria):
    """Row i ends after `limits[i]` new tokens, and the call when all have."""

    def __init__(self, start, limits):
        self.start, self.limits = start, torch.tensor(limits)

    def __call__(self, input_ids, scores, **_):
        return (input_ids.shape[1] - self.start >= self.limits).to(input_ids.device)


@torch.no_grad()
def generate(places):
    prompts = torch.tensor([task["prompts"][i] for i in places], device=model.device)
    limits = [task["lengths"][i] if task["row"] == "lengths" else task["new_tokens"] for i in places]
    stop = StoppingCriteriaList([Limits(prompts.shape[1], limits)])
    model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=max(limits),
        stopping_criteria=stop,
        **options,
    )


turns.ready(torch=torch.__version__, transformers=transformers.__version__)
for number in range(task["total_steps"]):
    first = number * task["batch"]
    for start in range(first, first + task["batch"], task["slots"]):
        generate(range(start, min(start + task["slots"], first + task["batch"])))
    turns.step(last=number + 1 == task["total_steps"])
turns.finish()
