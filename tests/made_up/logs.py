"""Folders as ``lm_eval --log_samples`` writes them (0.4.13), of scores that a test chooses."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unembed.decisions.benchmarks.compare import compare_logs
from unembed.decisions.benchmarks.record import ComparedBenchmarks

DATE = "2026-01-02T03-04-05.678901"

Scores = Mapping[str, Sequence[Any]]
"""By metric, its filter behind a comma; ``word_perplexity`` and ``bits_per_byte`` are pairs."""


def write_logs(
    folder: Path,
    tasks: Mapping[str, Scores],
    *,
    model: str = "org/model",
    groups: Mapping[str, tuple[Sequence[str], Mapping[str, float]]] | None = None,
    docs: Mapping[str, Sequence[dict[str, Any]]] | None = None,
    versions: Mapping[str, Any] | None = None,
    prompt: str = "",
    repeats: int = 1,
    date: str = DATE,
    reported: Mapping[str, Mapping[str, float]] | None = None,
    configs: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Write the results and the samples of each task; where the samples lie."""
    below = folder / model.replace("/", "__")
    below.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    better: dict[str, dict[str, bool]] = {}
    for task, scores in tasks.items():
        n = len(next(iter(scores.values())))
        results[task] = {"name": task, "alias": task, "sample_len": n}
        better[task] = {}
        for metric, values in scores.items():
            name, _, used = metric.partition(",")
            number = (reported or {}).get(task, {}).get(metric, aggregated(name, values))
            results[task][f"{name},{used or 'none'}"] = number
            results[task][f"{name}_stderr,{used or 'none'}"] = "N/A"
            better[task][name] = name in ("acc", "acc_norm", "exact_match", "f1")
        own = (docs or {}).get(task) or [{"q": f"{task} asks {i}"} for i in range(n)]
        lines = []
        for used in dict.fromkeys(metric.partition(",")[2] or "none" for metric in scores):
            chosen = {
                metric.partition(",")[0]: values
                for metric, values in scores.items()
                if (metric.partition(",")[2] or "none") == used
            }
            for i in range(n):
                asked = f"{prompt}{own[i]['q']}"
                held = {metric: values[i] for metric, values in chosen.items()}
                line = {
                    "doc_id": i,
                    "doc": own[i],
                    "target": str(i % 4),
                    "arguments": {"gen_args_0": {"arg_0": asked, "arg_1": " a"}},
                    "resps": [[["-1.5", "False"]] * repeats],
                    "filtered_resps": [["-1.5", "False"]],
                    "filter": used,
                    "metrics": list(held),
                    "doc_hash": digest(json.dumps(own[i])),
                    "prompt_hash": digest(asked),
                    "target_hash": digest(str(i % 4)),
                    **held,
                }
                lines.append(json.dumps(line))
        (below / f"samples_{task}_{date}.jsonl").write_text("\n".join(lines) + "\n")
    for name, (_, numbers) in (groups or {}).items():
        results[name] = {"alias": name, **{f"{key},none": one for key, one in numbers.items()}}
    written = {
        "results": results,
        "group_subtasks": {name: list(parts) for name, (parts, _) in (groups or {}).items()},
        "versions": {task: (versions or {}).get(task, 1.0) for task in tasks},
        "configs": configs or {},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": better,
        "config": {"model": "hf", "model_args": {"pretrained": model}},
        "lm_eval_version": "0.4.13",
        "model_name": model,
    }
    (below / f"results_{date}.json").write_text(json.dumps(written, indent=2))
    return below


def aggregated(metric: str, values: Sequence[Any]) -> float:
    """The number that the harness reports of a metric's values."""
    if metric in ("word_perplexity", "bits_per_byte"):
        rate = -sum(a for a, _ in values) / sum(b for _, b in values)
        return math.exp(rate) if metric == "word_perplexity" else rate / math.log(2)
    if metric == "perplexity":
        return math.exp(-sum(values) / len(values))
    return sum(values) / len(values)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def compared_benchmarks(n: int = 200) -> ComparedBenchmarks:
    """Two models on tasks, a group and a perplexity, with every figure that there is."""
    generator = np.random.default_rng(0)
    old: dict[str, dict[str, list[Any]]] = {}
    new: dict[str, dict[str, list[Any]]] = {}
    for name, size, lost in (("arc", n, 0.25), ("boolq", 2 * n, 0.02), ("mmlu_law", n, 0.1)):
        scores = (generator.random(size) < 0.7).astype(float)
        kept = np.where(generator.random(size) < lost, 0.0, scores)
        old[name] = {"acc": scores.tolist(), "exact_match,strict": scores[::-1].tolist()}
        new[name] = {"acc": kept.tolist(), "exact_match,strict": kept[::-1].tolist()}
    words = generator.integers(5, 30, n)
    logs = -words * generator.uniform(2, 4, n)
    old["wiki"] = {
        "word_perplexity": [[float(a), int(b)] for a, b in zip(logs, words, strict=True)]
    }
    new["wiki"] = {"word_perplexity": [[1.02 * a, b] for a, b in old["wiki"]["word_perplexity"]]}
    old["words"] = {"words": [float(one) for one in words]}
    new["words"] = {"words": [float(one + i % 3 - 1) for i, one in enumerate(words)]}
    with tempfile.TemporaryDirectory() as folder:
        for side, scores in (("before", old), ("after", new)):
            group = {"acc": float(np.mean(scores["mmlu_law"]["acc"]))}
            write_logs(
                Path(folder) / side,
                scores,
                model=f"org/{side}",
                groups={"mmlu": (("mmlu_law",), group)},
            )
        return compare_logs(Path(folder) / "before", Path(folder) / "after", resamples=200)
