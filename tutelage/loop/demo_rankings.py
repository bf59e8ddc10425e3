"""The demo's rankings: which of the store's count, and asking for those that are missing."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tutelage.feedback.store import Store
from tutelage.model.causal import Model
from tutelage.records import Comparison, Completion, Prompt, Source
from tutelage.sample.sampler import Sampled
from tutelage.wire import generate

if TYPE_CHECKING:
    from tutelage.loop.demo import Scene

Annotate = Callable[[Prompt, Sequence[Completion]], Comparison | None]


def completions(scene: "Scene", model: Model, sampled: Sequence[Sampled]) -> list[Completion]:
    """Samples of the fine-tuned model as records."""
    config, run = scene.config, scene.runs["sft"]
    source = Source(model=model.name, run=run.id, seed=config.seed, sampling=config.ppo.sampling.model_dump())
    return [Completion(text=model.tokenizer.decode(s.tokens), finish=s.finish, source=source) for s in sampled]


def collect(scene: "Scene", policy: Model, store: Store, annotate: Annotate | None) -> list[Comparison]:
    """Rankings of the policy's completions, from the panel or from the person at the terminal; kept in the store.

    Those of other completions (another seed's, another K's) or by others, which the store may hold too, do not count.
    """
    k, seed, person, run = scene.config.completions, scene.config.seed, annotate is not None, scene.runs["sft"].id

    def wanted() -> list[Comparison]:
        theirs = (c for c in store.comparisons("train") if (c.annotator.kind != "simulated") == person)
        return [c for c in theirs if len(c.completions) == k and all(one.source.run == run for one in c.completions)]

    have = wanted()
    prompts = scene.prompts("train", scene.config.labelled_prompts)
    done = {c.prompt.id for c in have}
    todo = [p for p in prompts if p.id not in done]
    if not todo:
        return have
    with scene.timed("Rankings", f"{len(prompts)} prompts, {k} completions each"):
        for start in range(0, len(todo), 4 if person else len(todo)):
            part = todo[start : start + (4 if person else len(todo))]
            groups = generate(policy, part, k, scene.config.ppo.sampling, seed=seed + len(done) + start)
            for prompt, group in zip(part, groups, strict=True):
                texts = completions(scene, policy, group)
                ranked = annotate(prompt, texts) if annotate is not None else panel_ranks(scene, prompt, texts)
                if ranked is not None:
                    store.add(ranked)
    return wanted()


def panel_ranks(scene: "Scene", prompt: Prompt, texts: Sequence[Completion]) -> Comparison:
    """One simulated person's ranking; who it is and what noise they have follow from the seed and the prompt."""
    rng = np.random.default_rng([scene.config.seed, int(prompt.id[:8], 16)])
    return scene.panel.compare(prompt, texts, rng)
