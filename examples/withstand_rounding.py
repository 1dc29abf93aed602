"""Which training makes fewer decisions flip under rounded weights: see docs/findings/rounding.md.

    python examples/withstand_rounding.py ways runs/rounding       # every way, one seed
    python examples/withstand_rounding.py seeds runs/rounding      # the best ones, three seeds
    python examples/withstand_rounding.py table runs/rounding      # what is there so far
    python examples/withstand_rounding.py seeds runs/stories ./stories260K stories.txt

200 steps of two windows of 256 tokens of the bundled model's held-out library, two fifths of whose
documents are only measured; or of a Llama and a text of yours, a document to every five lines. A
killed run goes on with the same command; processes with ``--part 0/2`` and ``--part 1/2`` share it.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unembed import Checkpoint, Corpus, audit, head_loss, load
from unembed.decisions import AuditOptions
from unembed.demo import bundled_model, documents
from unembed.head import Precision, final_hidden, output_embedding
from unembed.models import quantized, token_ids
from unembed.stats import student_t
from unembed.training import HeadHook, Objective, apply_scope, mean_loss

STEPS, WINDOWS, CONTEXT, RATE, CLIP = 200, 2, 256, 1e-4, 10.0
MOMENT_BATCHES, SLOPE_BATCHES = 40, 60
TRAINED_CHARACTERS, MEASURED_CHARACTERS = 4_000, 20_000
SCHEMES = {"int8": (127.5, None), "int4": (7.5, 32)}
"""Of each rounding half of its steps, and how many weights of a row share a scale."""
Substitute = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Way:
    """How to train: what is minimised, by which weights, and what is done to them before.

    ``seen`` are the weights that the loss is taken with, and ``other`` those of a second pass:
    plain, "straight int8" (rounded, with the plain weights' gradient) or "noise int8" (uniform,
    of the rounding's size). ``relative`` weighs the log of the change of narrow margins by the
    second pass over these margins; ``flips`` its chance of another top-1, smoothed; ``own`` is the
    weight of KL(first pass‖second), ``start`` that of KL(starting model‖first).
    ``even`` moves scales between layers, which changes no output; ``bound`` holds every weight
    within so many root mean squares of its row.
    """

    objective: str = "none"
    weight: float = 0.0
    seen: str = "plain"
    other: str = "plain"
    entropy: float = 1.0
    relative: float = 0.0
    flips: float = 0.0
    own: float = 0.0
    start: float = 0.0
    scope: str = "full"
    even: bool = False
    bound: float | None = None


FISHER = Way("fisher", 2.0)
WAYS = {
    "control": Way(),
    "fisher 2": FISHER,
    "fisher 5": replace(FISHER, weight=5.0),
    "bound 2.5": Way(bound=2.5),
    "bound 2.2": Way(bound=2.2),
    "bound 2.5, fisher 2": replace(FISHER, bound=2.5),
    "even, bound 2.5, fisher 2": replace(FISHER, bound=2.5, even=True),
    "even": Way(even=True),
    "even, fisher 2": replace(FISHER, even=True),
    "rounded int8, fisher 2": replace(FISHER, seen="straight int8"),
    "rounded int4, fisher 2": replace(FISHER, seen="straight int4"),
    "noise int8, fisher 2": replace(FISHER, seen="noise int8"),
    "noise int4, fisher 2": replace(FISHER, seen="noise int4"),
    "rounded int8": Way(seen="straight int8"),
    "rounded int4": Way(seen="straight int4"),
    "noise int4": Way(seen="noise int4"),
    "margin 1": Way("margin", 1.0),
    "relative margin 0.4": Way(relative=0.4, other="noise int4"),
    "smooth flips 1": Way(flips=1.0, other="noise int4"),
    "KL to itself 8, fisher 2": replace(FISHER, own=8.0, other="noise int4"),
    "last 2 blocks, fisher 2": replace(FISHER, scope="last-2-blocks"),
    "head, fisher 2": replace(FISHER, scope="head"),
    "norm+head, fisher 2": replace(FISHER, scope="norm+head"),
    "distilled": Way(entropy=0.0, start=1.0),
    "distilled, rounded int8": Way(entropy=0.0, start=1.0, seen="straight int8"),
    "distilled, rounded int4": Way(entropy=0.0, start=1.0, seen="straight int4"),
}
BEST = tuple(WAYS)[:7]


def rounded(weight: Tensor, scheme: str) -> Tensor:
    """What ``quantized`` makes of a linear layer's weight."""
    groups, step = _steps(weight, scheme)
    half = SCHEMES[scheme][0]
    return ((groups * (1 / step)).round().clamp(-half - 0.5, half - 0.5) * step).view_as(weight)


def _steps(weight: Tensor, scheme: str) -> tuple[Tensor, Tensor]:
    """The weights that share a scale, and the step of each such group."""
    half, group = SCHEMES[scheme]
    rows, columns = weight.shape
    width = group if group is not None and columns % group == 0 else columns
    groups = weight.reshape(rows, -1, width)
    step = groups.abs().amax(-1, keepdim=True) / half
    return groups, step.clamp_min(torch.finfo(weight.dtype).eps)


def straight_through(weight: Tensor, scheme: str) -> Tensor:
    """The rounded weight, whose gradient is the weight's."""
    return weight + (rounded(weight.detach(), scheme) - weight).detach()


def noisy(weight: Tensor, scheme: str, size: float = 1.0) -> Tensor:
    """The weight with uniform noise as wide as the rounding's steps, times ``size``."""
    groups, step = _steps(weight.detach(), scheme)
    return weight + ((torch.rand_like(groups) - 0.5) * step * size).view_as(weight)


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """Those that are rounded: all but the head."""
    last = output_embedding(model)
    return [one for one in model.modules() if isinstance(one, nn.Linear) and one is not last]


@contextmanager
def weights_as(model: nn.Module, substitute: Substitute) -> Iterator[None]:
    """Forward passes with other weights, through which gradients reach the model's own."""
    handles = []
    for layer in linear_layers(model):

        def put(module: nn.Module, _args: Any) -> None:
            vars(module)["weight"] = substitute(module.get_parameter("weight"))

        def take_away(module: nn.Module, _args: Any, _output: Any) -> None:
            vars(module).pop("weight", None)

        handles.append(layer.register_forward_pre_hook(put))
        handles.append(layer.register_forward_hook(take_away, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hidden_states(model: nn.Module, ids: Tensor, seen: str) -> Tensor:
    """The head's inputs, end to end, with the weights that a way says."""
    if seen == "plain":
        return final_hidden(model, ids).flatten(0, 1)
    how, scheme = seen.split()
    change = straight_through if how == "straight" else noisy
    with weights_as(model, lambda weight: change(weight, scheme)):
        return final_hidden(model, ids).flatten(0, 1)


@dataclass(frozen=True)
class Text:
    """Windows to train on, and the documents to measure."""

    ids: Tensor
    heldout: Corpus

    def windows(self, seed: int) -> Iterator[Tensor]:
        """Batches of windows, each with the token after it, in an order of their own per seed."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm((len(self.ids) - 1) // CONTEXT, generator=generator)
            for at in range(0, len(order) - WINDOWS + 1, WINDOWS):
                starts = [int(nth) * CONTEXT for nth in order[at : at + WINDOWS]]
                yield torch.stack([self.ids[s : s + CONTEXT + 1] for s in starts])


def refined(start: Checkpoint, text: Text, way: Way, seed: int) -> Checkpoint:
    """The starting model, trained in this way."""
    torch.manual_seed(seed)
    model = copy.deepcopy(start.model).train()
    if way.even:
        even(model, text)
    bounds = [] if way.bound is None else bound_rows(model, text, way.bound)
    apply_scope(model, way.scope, untie="head" in way.scope)
    hook = HeadHook.of(model, token_ids(start.tokenizer))
    precision = Precision.probe(hook.head.weight.detach())
    moving = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.05 * STEPS), (STEPS - step) / (0.95 * STEPS))
    )
    objective = Objective(way.objective)
    for _, batch in zip(range(STEPS), text.windows(seed), strict=False):
        ids, targets = batch[:, :-1], batch[:, 1:].flatten()
        head = hook.current_head(model)
        hidden = hidden_states(model, ids, way.seen)
        said = head_loss(
            hidden, head, targets, 5, cosines=objective.cosines_needed, precision=precision
        )
        loss = mean_loss(said, objective, way.weight, ce_weight=way.entropy).total
        if way.start:
            with torch.no_grad():
                aim = final_hidden(start.model, ids).flatten(0, 1)
                aim = (aim @ output_embedding(start.model).weight.T).log_softmax(-1)
            loss = loss + way.start * divergence(aim, (hidden @ head.weight.T).log_softmax(-1))
        if way.other != "plain":
            there = hidden_states(model, ids, way.other) @ head.weight.T
            loss = loss + second_pass(way, said.topk_values, said.topk_ids, there)
            if way.own:
                here = (hidden @ head.weight.T).log_softmax(-1)
                loss = loss + way.own * divergence(here, there.log_softmax(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(moving, CLIP)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for layer, bound in zip(linear_layers(model), bounds, strict=False):
                layer.weight.clamp_(-bound, bound)
    for one in model.parameters():
        one.requires_grad_(False)
    return replace(start, model=model.eval(), name="refined")


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """The mean KL(p‖q) of rows of log-probabilities, in nats."""
    return (p.exp() * (p - q)).sum(-1).mean()


def second_pass(way: Way, values: Tensor, ids: Tensor, there: Tensor) -> Tensor:
    """What a way says of the logits of a second pass, beside the first one's leading logits."""
    margin = values[:, 0] - values[:, 1]
    first = there.gather(1, ids[:, :1])[:, 0]
    loss = there.new_zeros(())
    if way.relative:
        near = (margin < 3.0).float()
        moved = (first - there.gather(1, ids[:, 1:2])[:, 0] - margin).square()
        size = 0.5 * ((near * moved).sum() / near.sum()).log()
        loss = loss + way.relative * (size - ((near * margin).sum() / near.sum()).log())
    if way.flips:
        others = there.scatter(1, ids[:, :1], -torch.inf).amax(1)
        loss = loss + way.flips * torch.sigmoid((others - first) / 0.5).mean()
    return loss


@torch.no_grad()
def bound_rows(model: nn.Module, text: Text, times: float) -> list[Tensor]:
    """Take every weight of the linear layers within ``times`` the root mean square of its row.

    Returns the rows' bounds.

    What a row loses is made up for by its others: of the weights within the bound, those whose
    outputs on 40 batches are nearest to what they were, by coordinate descent.
    """
    moments = {layer: torch.zeros(2 * (layer.in_features,)) for layer in linear_layers(model)}

    def gather(layer: nn.Module, args: Any) -> None:
        inputs = args[0].flatten(0, 1)
        moments[layer].addmm_(inputs.T, inputs)

    handles = [layer.register_forward_pre_hook(gather) for layer in moments]
    for _, batch in zip(range(MOMENT_BATCHES), text.windows(seed=5), strict=False):
        final_hidden(model, batch[:, :-1])
    for handle in handles:
        handle.remove()
    bounds = [times * layer.weight.square().mean(1, keepdim=True).sqrt() for layer in moments]
    for (layer, squares), bound in zip(moments.items(), bounds, strict=True):
        layer.weight.copy_(within(layer.weight, squares, bound))
    return bounds


def within(weight: Tensor, moments: Tensor, bound: Tensor, sweeps: int = 30) -> Tensor:
    """The rows w of ``|w| <= bound`` that minimise (w − weight)ᵀ moments (w − weight)."""
    moments = moments + 1e-3 * moments.diagonal().mean() * torch.eye(len(moments))
    found = weight.clamp(-bound, bound)
    gradient = (found - weight) @ moments
    for _ in range(sweeps):
        for at, row in enumerate(moments):
            best = found[:, at] - gradient[:, at] / row[at]
            step = best.clamp(-bound[:, 0], bound[:, 0]) - found[:, at]
            gradient.addr_(step, row)
            found[:, at] += step
    return found


def even(model: Any, text: Text) -> None:
    """Move scales between layers of a Llama so that rounding moves narrow margins least.

    A column's scale goes into the norm or the rows before it: outputs stay what they were.
    """
    slopes = squared_slopes(model, text)
    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        of_heads = [attention.q_proj, attention.k_proj, attention.v_proj]
        pairs: list[tuple[Any, list[nn.Linear]]] = [
            (block.input_layernorm, of_heads),
            (block.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj]),
            (mlp.up_proj, [mlp.down_proj]),
        ]
        if attention.v_proj.weight.shape[0] == attention.o_proj.weight.shape[1]:
            pairs.append((attention.v_proj, [attention.o_proj]))
        for before, layers in pairs:
            scale = best_scale([(layer.weight.detach(), slopes[layer]) for layer in layers])
            with torch.no_grad():
                for layer in layers:
                    layer.weight.mul_(scale)
                before.weight.div_(scale if before.weight.ndim == 1 else scale[:, None])


def squared_slopes(model: nn.Module, text: Text) -> dict[nn.Linear, Tensor]:
    """The squared derivative of each margin below 1 in each weight, summed over positions.

    One backward pass of randomly signed margins a batch has that sum as its mean square.
    """
    layers = linear_layers(model)
    found = {layer: torch.zeros_like(layer.weight) for layer in layers}
    generator = torch.Generator().manual_seed(0)
    for _, batch in zip(range(SLOPE_BATCHES), text.windows(seed=6), strict=False):
        logits = final_hidden(model, batch[:, :-1]).flatten(0, 1) @ output_embedding(model).weight.T
        leading = logits.topk(2).values
        margin = leading[:, 0] - leading[:, 1]
        signs = torch.randint(0, 2, margin.shape, generator=generator) * 2 - 1
        signed = (signs * margin)[margin < 1].sum()
        slopes = torch.autograd.grad(signed, [layer.weight for layer in layers])
        for layer, slope in zip(layers, slopes, strict=True):
            found[layer] += slope.square()
    return found


def best_scale(layers: Sequence[tuple[Tensor, Tensor]], steps: int = 400) -> Tensor:
    """The columns' scales that minimise ``sum (max |w s|)² sum slopes / s²`` over all rows."""
    log_scale = torch.zeros(layers[0][0].shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([log_scale], lr=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    least, best = torch.inf, log_scale.detach().exp()
    for _ in range(steps):
        scale = log_scale.exp()
        noise = sum(
            ((weight * scale).abs().amax(1).square() * (slopes / scale.square()).sum(1)).sum()
            for weight, slopes in layers
        )
        assert isinstance(noise, Tensor)
        if noise.item() < least:
            least, best = noise.item(), scale.detach().clone()
        optimizer.zero_grad()
        noise.log().backward()
        optimizer.step()
        schedule.step()
    return best


def measured(model: Checkpoint, heldout: Corpus) -> dict[str, np.ndarray]:
    """Decisions and losses of a model and of it rounded, at the same positions.

    "noise" are decisions with noise of four int8 steps, of which there are more flips to count.
    """
    options = AuditOptions(top_k=2, context=CONTEXT, max_positions=200_000)
    shaken = copy.deepcopy(model.model)
    torch.manual_seed(1000)
    with torch.no_grad():
        for layer in linear_layers(shaken):
            layer.weight.copy_(noisy(layer.weight, "int8", 4.0))
    models = {
        "plain": model.model,
        "int8": quantized(model, "int8").model,
        "int4": quantized(model, "int4").model,
        "noise": shaken,
    }
    found: dict[str, np.ndarray] = {}
    for name, one in models.items():
        run = audit(one, heldout, options)
        found |= {f"{name} top1": run.column("top1"), f"{name} nll": run.column("nll")}
        if name == "plain":
            found |= {key: run.column(key) for key in ("doc", "margin", "relative_distance")}
    return found


def bundled() -> tuple[Checkpoint, Text]:
    """The bundled model and the library that it never saw."""
    found = sorted(documents("heldout"), key=lambda d: hashlib.sha256(d.name.encode()).hexdigest())
    return _parted(load(bundled_model()), [(one.name, one.text) for one in found])


def other(name: str, file: str) -> tuple[Checkpoint, Text]:
    """A Llama and a text file, a document to every five lines that are not blank."""
    lines = [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    starts = range(0, min(len(lines), 5 * 250), 5)
    return _parted(load(name), [(f"{at}", "\n".join(lines[at : at + 5])) for at in starts])


def _parted(checkpoint: Checkpoint, found: list[tuple[str, str]]) -> tuple[Checkpoint, Text]:
    """Two of every five documents are held out."""
    parts = []
    for held, characters in ((False, TRAINED_CHARACTERS), (True, MEASURED_CHARACTERS)):
        part = [one for nth, one in enumerate(found) if (nth % 5 < 2) == held]
        texts = (text[:characters] for _, text in part)
        names = [name for name, _ in part]
        parts.append(Corpus.from_texts(texts, checkpoint.tokenizer, names=names))
    return checkpoint, Text(torch.from_numpy(parts[0].ids.astype(np.int64)), parts[1])


def point(out: Path, name: str, seed: int) -> Path:
    """Where a way's measurements with a seed are kept."""
    return out / f"{name.replace(', ', '+').replace(' ', '-')}-seed{seed}.npz"


def keep(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write a whole file or none."""
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **columns)
    part.replace(path)


def run(checkpoint: Checkpoint, text: Text, out: Path, points: Sequence[tuple[str, int]]) -> None:
    """Train and measure what is not there yet."""
    start = out / "start.npz"
    out.mkdir(parents=True, exist_ok=True)
    if not start.exists():
        keep(start, measured(checkpoint, text.heldout))
    for name, seed in points:
        path = point(out, name, seed)
        if not path.exists():
            keep(path, measured(refined(checkpoint, text, WAYS[name], seed), text.heldout))
            print(path.stem, flush=True)


@dataclass(frozen=True)
class Sums:
    """Totals over the positions of one run: as observed, and below it in each resample."""

    columns: dict[str, np.ndarray]

    @staticmethod
    def of(found: dict[str, np.ndarray], start: dict[str, np.ndarray]) -> Sums:
        """The same 2,000 resamples of the documents for every run."""
        doc = start["doc"]
        count = int(doc.max()) + 1
        draws = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=2_000)
        draws = np.concatenate([np.ones((1, count), dtype=draws.dtype), draws])
        was, now = start["plain top1"], found["plain top1"]
        columns: dict[str, np.ndarray] = {"nll": found["plain nll"], "churn": was != now}
        for name in ("int8", "int4", "noise"):
            columns[name] = now != found[f"{name} top1"]
            columns[f"start to {name}"] = was != found[f"{name} top1"]
            columns[f"{name} nll"] = found[f"{name} nll"]
        return Sums(
            {
                key: draws @ np.bincount(doc, weights=column.astype(float), minlength=count)
                for key, column in columns.items()
            }
        )


def ratio(ours: Sequence[Sums], theirs: Sequence[Sums], name: str) -> tuple[float, float, float]:
    """A total over the control's, and a 95 % interval over documents and seeds."""
    pooled = sum(one.columns[name] for one in ours) / sum(one.columns[name] for one in theirs)
    pooled = pooled * len(theirs) / len(ours)
    ends = np.quantile(pooled[1:], (0.025, 0.975))
    singles = [
        float(a.columns[name][0] / b.columns[name][0]) for a, b in zip(ours, theirs, strict=False)
    ]
    of_seeds = 0.0
    if len(singles) > 1:
        of_seeds = student_t(len(singles) - 1) * np.std(singles, ddof=1) / len(singles) ** 0.5
    value = float(pooled[0])
    low, high = (float(np.hypot(end - value, of_seeds)) for end in ends)
    return value, value - low, value + high


def table(out: Path) -> Iterator[str]:
    """A row for each way that is there, against the control of the same seeds."""
    start = dict(np.load(out / "start.npz"))
    seeds_of = {
        name: [seed for seed in range(10) if point(out, name, seed).exists()] for name in WAYS
    }
    runs = {
        (name, seed): dict(np.load(point(out, name, seed)))
        for name, seeds in seeds_of.items()
        for seed in seeds
    }
    sums = {key: Sums.of(found, start) for key, found in runs.items()}
    n = len(start["doc"])
    said = ", ".join(
        f"{name} {(start['plain top1'] != start[f'{name} top1']).mean():.2%}"
        for name in ("int8", "int4")
    )
    yield f"{n:,} positions; the start: loss {start['plain nll'].mean():.3f}, flips {said}"
    yield ""
    yield (
        "| way | seeds | loss, % | int8 flips | int4 flips | noise flips | scale-free margin, % | "
        "churn, % | start to int8, % | start to int4, % |"
    )
    yield "|---" * 10 + "|"
    for name, seeds in seeds_of.items():
        common = [seed for seed in seeds if seed in seeds_of["control"]]
        if not common:
            continue
        ours, theirs = ([sums[key, seed] for seed in common] for key in (name, "control"))
        cells = [name, str(len(common))]
        value, low, high = (100 * (one - 1) for one in ratio(ours, theirs, "nll"))
        cells.append(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
        for column in ("int8", "int4", "noise"):
            value, low, high = ratio(ours, theirs, column)
            cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
        before, after = (
            np.median([side["relative_distance"] for side in sides])
            for sides in ([start], [runs[name, seed] for seed in common])
        )
        cells.append(f"{100 * (after / before - 1):+.1f}")
        for column in ("churn", "start to int8", "start to int4"):
            share = sum(one.columns[column][0] for one in ours) / len(ours) / n
            cells.append(f"{100 * share:.2f}")
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Run a part, or go on with it, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("ways", "seeds", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("model", nargs="?")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--part", default="0/1", help="which share of the work, of how many")
    given = parser.parse_args()
    if given.what != "table":
        checkpoint, text = other(given.model, given.text) if given.text else bundled()
        one_seed = [(name, 0) for name in WAYS]
        three = [(name, seed) for seed in range(3) for name in BEST]
        points = one_seed if given.what == "ways" else three
        nth, parts = map(int, given.part.split("/"))
        run(checkpoint, text, given.out, points[nth::parts])
    print("\n".join(table(given.out)))


if __name__ == "__main__":
    main()
