"""Train the small language model bundled in ``unembed.demo``, from text on this computer.

The text is the Python standard library's own: see ``unembed.demo.text``.  The script trains a
byte-level BPE tokenizer, counts n-gram baselines, trains a Llama-style model on the CPU and writes
a folder that ``transformers`` loads::

    python scripts/train_demo_model.py --minutes 60 --out runs/demo

Everything is kept below ``--out``: the tokenizer, the token arrays, ``checkpoint.pt``,
``results.json`` and the finished ``model/``.  Starting the same command again resumes from the
checkpoint.  Creating the file ``OUT/DECAY`` makes the learning rate's final decay begin at once.
A finished run goes on when it is started with a larger ``--tokens``: the learning rate returns to
the share ``--again`` of what it was and decays to zero over the tokens added.  ``--layers`` and
``--width`` make a model of another shape, such as the deeper one that layers are studied on.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unembed.demo.text import documents

SEPARATOR = "<|endoftext|>"
SPLITS = ("train", "heldout")

# What BPE may merge within.  The alternatives are tried in order:
#   a word with one mark or space before it; up to three digits; a run of marks, with a space before
#   it and the line's end after it; line ends with the next line's indentation; other whitespace.
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
DIGITS = r"\p{N}{1,3}"
MARKS = r" ?[^\s\p{L}\p{N}]+\n*"
INDENTATION = r"\n+[ \t]*(?=[ \t])|\n+"
SPACES = r"[^\S\n]+(?=[^\S\n])|\s+"
PIECES = "|".join([WORD, DIGITS, MARKS, INDENTATION, SPACES])


@dataclass(frozen=True)
class Shape:
    """The model's dimensions."""

    vocab_size: int = 8192
    hidden_size: int = 192
    intermediate_size: int = 448
    num_hidden_layers: int = 5
    num_attention_heads: int = 3
    num_key_value_heads: int = 3
    max_position_embeddings: int = 512


def shape_of(layers: int, width: int) -> Shape:
    """The bundled model's proportions at another depth and width."""
    heads = width // 64
    return Shape(
        hidden_size=width,
        intermediate_size=width * 7 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )


def log(message: str) -> None:
    """Write one line of progress."""
    print(message, file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------
# Tokenizer and tokens


def train_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the training text, adding nothing of its own on encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((d.text for d in documents("train")), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise SystemExit(f"only {tokenizer.get_vocab_size()} of {vocab_size} tokens were found")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        clean_up_tokenization_spaces=False,
        model_max_length=Shape().max_position_embeddings,
    )


@dataclass(frozen=True)
class Tokens:
    """A split's token ids, its documents joined by separators, and the sizes to report."""

    ids: np.ndarray
    text_bytes: int
    documents: int

    @property
    def bytes_per_token(self) -> float:
        """The text's bytes for each token, separators included."""
        return self.text_bytes / len(self.ids)

    def bits_per_byte(self, nats_per_token: float) -> float:
        """The same loss, whatever the tokenizer."""
        return nats_per_token / math.log(2) / self.bytes_per_token


def encode(tokenizer: PreTrainedTokenizerFast, split: str) -> Tokens:
    """A split's documents, each after a separator."""
    separator = tokenizer.convert_tokens_to_ids(SEPARATOR)
    parts: list[np.ndarray] = []
    text_bytes = 0
    for document in documents(split):  # type: ignore[arg-type]
        ids = tokenizer.encode(document.text, verbose=False)
        parts.append(np.array([separator, *ids], dtype=np.uint16))
        text_bytes += len(document.text.encode("utf-8", "replace"))
    return Tokens(np.concatenate(parts), text_bytes, len(parts))


def prepare(out: Path, shape: Shape) -> tuple[PreTrainedTokenizerFast, dict[str, Tokens]]:
    """The tokenizer and both splits' tokens, made on the first run and read back after it."""
    folder, sizes_file = out / "tokenizer", out / "tokens.json"
    if sizes_file.exists():
        sizes = json.loads(sizes_file.read_text())
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return tokenizer, {s: Tokens(np.load(out / f"{s}.npy"), **sizes[s]) for s in SPLITS}
    tokenizer = train_tokenizer(shape.vocab_size)
    tokenizer.save_pretrained(folder)
    tokens = {split: encode(tokenizer, split) for split in SPLITS}
    for split, value in tokens.items():
        np.save(out / f"{split}.npy", value.ids)
    sizes = {
        split: {"text_bytes": value.text_bytes, "documents": value.documents}
        for split, value in tokens.items()
    }
    sizes_file.write_text(json.dumps(sizes))
    return tokenizer, tokens


# ---------------------------------------------------------------------------------------------
# Baselines


def ngram_losses(train: np.ndarray, heldout: np.ndarray, vocab_size: int) -> dict[str, float]:
    """Held-out nats per token of the unigram (add-one) and of Kneser-Ney bigrams and trigrams.

    Interpolated Kneser-Ney with one absolute discount for each order, estimated from how many
    n-grams were seen once and twice.  Lower orders count distinct left contexts, not occurrences.
    """
    train, heldout = train.astype(np.int64), heldout.astype(np.int64)
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    unigram = -np.log(counts / counts.sum())[heldout].mean()

    def codes(ids: np.ndarray, order: int) -> np.ndarray:
        """Every n-gram as one number, its last token in the lowest digit."""
        code = np.zeros(len(ids) - order + 1, dtype=np.int64)
        for offset in range(order):
            code = code * vocab_size + ids[offset : offset + len(code)]
        return code

    def lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The values of the wanted keys, 0 where a key is absent; ``keys`` is sorted."""
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, values[at], 0.0)

    def interpolate(
        grams: np.ndarray, seen: np.ndarray, wanted: np.ndarray, lower: np.ndarray
    ) -> np.ndarray:
        """Discounted probabilities of the wanted n-grams, backed by those of the order below."""
        once, twice = (seen == 1).sum(), (seen == 2).sum()
        discount = once / (once + 2 * twice)
        contexts, where = np.unique(grams // vocab_size, return_inverse=True)
        totals = np.bincount(where, weights=seen)
        kinds = np.bincount(where).astype(float)
        total = lookup(contexts, totals, wanted // vocab_size)
        kind = lookup(contexts, kinds, wanted // vocab_size)
        top = np.maximum(lookup(grams, seen, wanted) - discount, 0)
        safe = np.maximum(total, 1)
        return np.where(total > 0, top / safe + discount * kind / safe * lower, lower)

    trigrams, trigram_counts = np.unique(codes(train, 3), return_counts=True)
    all_bigrams, all_bigram_counts = np.unique(codes(train, 2), return_counts=True)
    bigrams, bigram_kinds = np.unique(trigrams % vocab_size**2, return_counts=True)
    unigram_kinds = np.bincount(all_bigrams % vocab_size, minlength=vocab_size) + 0.5
    base = (unigram_kinds / unigram_kinds.sum())[heldout]

    as_top = interpolate(all_bigrams, all_bigram_counts, codes(heldout, 2), base[1:])
    as_middle = interpolate(bigrams, bigram_kinds, codes(heldout, 2), base[1:])
    trigram = interpolate(trigrams, trigram_counts, codes(heldout, 3), as_middle[1:])
    return {
        "unigram": float(unigram),
        "bigram": float(-np.log(as_top).mean()),
        "trigram": float(-np.log(trigram).mean()),
    }


# ---------------------------------------------------------------------------------------------
# Model and optimizer


def build_model(shape: Shape, separator: int, seed: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings and weights drawn from the seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **asdict(shape),
        tie_word_embeddings=True,
        bos_token_id=separator,
        eos_token_id=separator,
        use_cache=True,
    )
    return LlamaForCausalLM(config)


class Optimizer:
    """Muon for the matrices between the embeddings, AdamW for everything else."""

    def __init__(self, model: LlamaForCausalLM, lr: float, embedding_lr: float, decay: float):
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
        embedding = model.get_input_embeddings().weight
        gains = [p for p in model.parameters() if p.ndim == 1]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [
                    {"params": [embedding], "weight_decay": decay},
                    {"params": gains, "weight_decay": 0.0},
                ],
                lr=embedding_lr,
                betas=(0.9, 0.95),
            ),
        ]
        self.rates = [lr, embedding_lr]

    def step(self, scale: float) -> None:
        """One update at ``scale`` times the peak learning rates."""
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of both optimizers."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Continue from saved state."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def loss_of(model: LlamaForCausalLM, rows: Tensor, bf16: bool, reduction: str = "mean") -> Tensor:
    """Next-token loss of rows that are one token longer than the context."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def heldout_loss(
    model: LlamaForCausalLM, ids: np.ndarray, context: int, bf16: bool, rows: int | None = None
) -> float:
    """Nats per token over consecutive windows, or over ``rows`` of them evenly spread."""
    windows = (len(ids) - 1) // context
    chosen = range(windows) if rows is None else range(0, windows, max(1, windows // rows))
    total, count = 0.0, 0
    model.eval()
    for window in chosen:
        row = torch.from_numpy(ids[window * context : (window + 1) * context + 1].astype(np.int64))
        total += loss_of(model, row[None], bf16, "sum").item()
        count += len(row) - 1
    model.train()
    return total / count


# ---------------------------------------------------------------------------------------------
# Schedule and batches


@dataclass
class Schedule:
    """Warm up, stay at ``peak``, and decay to zero over the last part of the tokens."""

    total: int
    warmup: int
    decay_from: int
    peak: float = 1.0

    @classmethod
    def of(cls, total: int, warmup: float, decay: float) -> Schedule:
        """The schedule for so many tokens, with the two phases' shares of them."""
        return cls(total, int(total * warmup), int(total * (1 - decay)))

    def scale(self, done: int) -> float:
        """The factor on the learning rate after ``done`` tokens."""
        if done < self.warmup:
            return self.peak * (done + 1) / (self.warmup + 1)
        if done < self.decay_from:
            return self.peak
        return self.peak * max(0.0, (self.total - done) / (self.total - self.decay_from))

    def decay_now(self, done: int) -> None:
        """Begin the decay here; it is as long as it would have been for the tokens so far."""
        if done < self.decay_from:
            share = 1 - self.decay_from / self.total
            self.decay_from = done
            self.total = done + int(done * share / (1 - share))


def batches(ids: np.ndarray, context: int, size: int, seed: int, skip: int) -> Iterator[Tensor]:
    """Endless batches of rows: each epoch cuts the tokens at another offset, in another order.

    ``skip`` batches are passed over, so that a resumed run sees what it would have seen.
    """
    rng = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    while True:
        offset = int(rng.integers(context))
        starts = np.arange(offset, len(ids) - context, context)
        rng.shuffle(starts)
        for start in starts:
            rows.append(ids[start : start + context + 1])
            if len(rows) == size:
                if skip:
                    skip -= 1
                else:
                    yield torch.from_numpy(np.stack(rows).astype(np.int64))
                rows = []


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# ---------------------------------------------------------------------------------------------
# Training


def train_step(
    model: LlamaForCausalLM,
    optimizer: Optimizer,
    batch: Tensor,
    micro: int,
    scale: float,
    bf16: bool,
) -> float:
    """One update from one batch, in pieces of ``micro`` rows; returns its loss."""
    total = 0.0
    for rows in batch.split(micro):
        loss = loss_of(model, rows, bf16) * (len(rows) / len(batch))
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step(scale)
    return total


def measure(model: LlamaForCausalLM, context: int, micro: int, bf16: bool, seconds: float) -> float:
    """Training tokens per second, without updating the model."""
    rows = torch.randint(model.config.vocab_size, (micro, context + 1))
    rates: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(rates) < 3:
        start = time.monotonic()
        loss_of(model, rows, bf16).backward()
        model.zero_grad(set_to_none=True)
        rates.append(micro * context / (time.monotonic() - start))
    return float(np.median(rates[1:]))


def write_model(model: LlamaForCausalLM, tokenizer: Path, folder: Path) -> None:
    """Write the folder that ``from_pretrained`` loads: float16 weights, float32 when loaded."""
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    config["dtype"] = "float32"
    config_file.write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)


def main() -> None:
    """Train, with the options below."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for everything written")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time to aim at")
    parser.add_argument("--tokens", type=int, help="training tokens, instead of --minutes")
    parser.add_argument("--share", type=float, default=0.65, help="share of the CPU to expect")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=Shape.num_hidden_layers)
    parser.add_argument("--width", type=int, default=Shape.hidden_size, help="a multiple of 64")
    parser.add_argument("--batch", type=int, default=8, help="rows for each update")
    parser.add_argument("--micro", type=int, default=8, help="rows for each forward pass")
    parser.add_argument("--lr", type=float, default=0.015, help="of the matrices (Muon)")
    parser.add_argument("--embedding-lr", type=float, default=0.004, help="of the rest (AdamW)")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=float, default=0.02, help="share of the tokens")
    parser.add_argument("--decay", type=float, default=0.4, help="share of the tokens")
    parser.add_argument("--again", type=float, default=0.4, help="learning rate of a second round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fp32", action="store_true", help="do not compute in bfloat16")
    parser.add_argument("--eval-every", type=float, default=240.0, help="seconds")
    parser.add_argument("--save-every", type=float, default=180.0, help="seconds")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    shape, bf16 = shape_of(args.layers, args.width), not args.fp32
    context = shape.max_position_embeddings
    tokenizer, tokens = prepare(args.out, shape)
    train, heldout = tokens["train"], tokens["heldout"]
    for split, value in tokens.items():
        log(
            f"{split}: {value.documents} documents, {value.text_bytes / 1e6:.2f} MB, "
            f"{len(value.ids)} tokens of {value.bytes_per_token:.2f} bytes"
        )

    model = build_model(shape, tokenizer.convert_tokens_to_ids(SEPARATOR), args.seed)
    optimizer = Optimizer(model, args.lr, args.embedding_lr, args.weight_decay)
    parameters = sum(p.numel() for p in model.parameters())
    log(f"{parameters} parameters")

    checkpoint_file = args.out / "checkpoint.pt"
    steps, seconds, curve = 0, 0.0, []
    if checkpoint_file.exists():
        saved = torch.load(checkpoint_file)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        steps, seconds, curve = saved["steps"], saved["seconds"], saved["curve"]
        schedule, baselines = Schedule(**saved["schedule"]), saved["baselines"]
        done = steps * args.batch * context
        if args.tokens is not None and done >= schedule.total < args.tokens:
            schedule = Schedule(args.tokens, warmup=0, decay_from=done, peak=args.again)
        log(f"resumed after {steps} steps")
    else:
        baselines = ngram_losses(train.ids, heldout.ids, shape.vocab_size)
        log("held-out nats/token: " + ", ".join(f"{k} {v:.3f}" for k, v in baselines.items()))
        budget = args.tokens
        if budget is None:
            rate = measure(model, context, args.micro, bf16, seconds=10.0)
            budget = int(rate * args.share * args.minutes * 60)
            log(f"{rate:.0f} tokens/s measured: {budget} tokens in {args.minutes:g} minutes")
        schedule = Schedule.of(budget, args.warmup, args.decay)

    def save() -> None:
        temporary = checkpoint_file.with_suffix(".tmp")
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "steps": steps,
            "seconds": seconds,
            "curve": curve,
            "schedule": asdict(schedule),
            "baselines": baselines,
        }
        torch.save(state, temporary)
        temporary.replace(checkpoint_file)
        write_model(model, args.out / "tokenizer", args.out / "model")

    step_tokens = args.batch * context
    rate, mean, last_eval, last_save = 0.0, 0.0, seconds, seconds
    stream = batches(train.ids, context, args.batch, args.seed, skip=steps)
    model.train()
    while (done := steps * step_tokens) < schedule.total:
        if (args.out / "DECAY").exists():
            schedule.decay_now(done)
        start = time.monotonic()
        loss = train_step(model, optimizer, next(stream), args.micro, schedule.scale(done), bf16)
        took = time.monotonic() - start
        steps += 1
        seconds += took
        rate = rate * 0.95 + step_tokens / took * 0.05 if rate else step_tokens / took
        mean = mean * 0.95 + loss * 0.05 if mean else loss
        if steps % 20 == 0:
            left = (schedule.total - steps * step_tokens) / rate
            log(
                f"step {steps}  {steps * step_tokens / schedule.total:6.1%}  loss {mean:.3f}  "
                f"{rate:.0f} tokens/s  {clock(seconds)} done  {clock(max(left, 0))} left"
            )
        if seconds - last_eval >= args.eval_every:
            last_eval = seconds
            value = heldout_loss(model, heldout.ids, context, bf16, rows=64)
            point = {"tokens": steps * step_tokens, "train": mean, "heldout": value}
            curve.append({k: round(v, 4) for k, v in point.items()})
            log(f"held-out (64 windows) {value:.3f}")
        if seconds - last_save >= args.save_every:
            last_save = seconds
            save()

    save()
    written = LlamaForCausalLM.from_pretrained(args.out / "model")
    losses = {**baselines, "model": heldout_loss(written, heldout.ids, context, bf16=False)}
    results = {
        "parameters": parameters,
        "trained_tokens": steps * step_tokens,
        "trained_minutes": round(seconds / 60, 1),
        "train": {
            "documents": train.documents,
            "bytes": train.text_bytes,
            "tokens": len(train.ids),
        },
        "heldout": {
            "documents": heldout.documents,
            "bytes": heldout.text_bytes,
            "tokens": len(heldout.ids),
        },
        "nats_per_token": {k: round(v, 4) for k, v in losses.items()},
        "bits_per_byte": {k: round(heldout.bits_per_byte(v), 4) for k, v in losses.items()},
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "curve": curve,
    }
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    log(json.dumps(results["nats_per_token"]) + "\n" + json.dumps(results["bits_per_byte"]))


if __name__ == "__main__":
    main()
