"""Train a small causal language model of molecules on MOSES' train split, on the CPU.

    OMP_NUM_THREADS=1 python examples/molecules/train.py -o runs/molecules --minutes 70
    python examples/molecules/train.py -o runs/molecules --tokens 22000000   # the same each time

One molecule is one row, ``<s> molecule </s>``, padded to the longest of its batch. One row in 25
asks `` ?`` behind the molecule and answers with one of ten words drawn at random: so the rows of
these words are trained, every answer is equally likely beforehand, and no property is known.
The learning rate warms up and then falls as a cosine, to zero at the end of the planned time or
tokens. The same command goes on where it was stopped; a finished run trains no further. Written
below the folder: ``tokenizer/``, ``ids.npz``, ``checkpoint.pt``, ``log.jsonl`` and ``model/``, in
float16, which ``transformers`` loads as float32. Nothing of the two held-out splits is trained on.
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

import numpy as np
import torch
from data import Split, molecules
from jaxtyping import Int
from tokenizer import CONTEXT, WORDS, train_tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TOKENIZER_STRINGS = 400_000
HELD_OUT = 4_000
"""Molecules of each held-out split that the loss is measured on while training."""
ASKED = 0.04
"""The share of rows that ask, with an answer drawn at random."""
POOL = 64
"""Batches whose molecules are sorted by length together, so that little is padding."""


@dataclass(frozen=True)
class Shape:
    """The model's dimensions: 2.9 million parameters, the head's rows being the embedding's."""

    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    num_key_value_heads: int = 6
    max_position_embeddings: int = CONTEXT


@dataclass(frozen=True)
class Rows:
    """Molecules as token ids, end to end; row i is ``ids[starts[i]:starts[i + 1]]``.

    ``begin``, ``end``, ``pad`` and ``ask`` are the ids of those tokens, ``answers`` of the words.
    """

    ids: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " rows_plus_one"]
    begin: int
    end: int
    pad: int
    ask: int
    answers: tuple[int, ...]

    @staticmethod
    def of(strings: list[str], tokenizer: PreTrainedTokenizerFast) -> Rows:
        """Encode strings, ten thousand at a time, without what the tokenizer adds."""
        parts, lengths = [], []
        for at in range(0, len(strings), 10_000):
            some = tokenizer(strings[at : at + 10_000], add_special_tokens=False)["input_ids"]
            lengths += [len(ids) for ids in some]
            parts.append(np.concatenate([np.array(ids, np.uint16) for ids in some]))
        return Rows.around(np.concatenate(parts), np.cumsum([0, *lengths]), tokenizer)

    @staticmethod
    def around(
        ids: Int[np.ndarray, " tokens"],
        starts: Int[np.ndarray, " rows_plus_one"],
        tokenizer: PreTrainedTokenizerFast,
    ) -> Rows:
        """The same with the ids of the tokens that are added."""
        begin, end, pad = (
            int(getattr(tokenizer, f"{kind}_token_id")) for kind in ("bos", "eos", "pad")
        )
        ask, *answers = tokenizer.convert_tokens_to_ids(list(WORDS))
        return Rows(ids, starts, begin, end, pad, ask, tuple(answers))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(
        self, rows: Int[np.ndarray, " rows"], rng: np.random.Generator | None = None
    ) -> Int[Tensor, "rows seq"]:
        """These rows between ``<s>`` and ``</s>``; with ``rng`` some of them ask and answer."""
        whole = []
        for row in rows:
            ids = [self.begin, *self.ids[self.starts[row] : self.starts[row + 1]].tolist()]
            if rng is not None and rng.random() < ASKED:
                ids += [self.ask, self.answers[rng.integers(len(self.answers))]]
            whole.append([*ids, self.end])
        longest = max(map(len, whole))
        return torch.tensor([ids + [self.pad] * (longest - len(ids)) for ids in whole])

    def batches(self, size: int, seed: int, skip: int = 0) -> Iterator[Int[Tensor, "rows seq"]]:
        """Endless batches of molecules of similar length, every epoch in another order.

        The first ``skip`` are passed over, so that a resumed run reads what it would have read.
        """
        lengths = np.diff(self.starts)
        number = 0
        for epoch in range(1 << 30):
            rng = np.random.default_rng((seed, epoch))
            order = rng.permutation(len(self))
            chunks = []
            for at in range(0, len(order), size * POOL):
                pool = order[at : at + size * POOL]
                pool = pool[np.argsort(lengths[pool], kind="stable")]
                cut = np.split(pool, range(size, len(pool), size))
                chunks += [cut[i] for i in rng.permutation(len(cut))]
            for rows in chunks:
                if number >= skip:
                    yield self.batch(rows, np.random.default_rng((seed, 1, number)))
                number += 1


def prepare(
    out: Path, size: int, limit: int | None
) -> tuple[PreTrainedTokenizerFast, Rows, dict[str, Rows]]:
    """The tokenizer and the encoded splits, made on the first run and read back after it."""
    splits: tuple[Split, ...] = ("test", "scaffolds")
    kept = out / "ids.npz"
    if not kept.exists():
        strings = molecules("train", limit)
        log(f"{len(strings):,} molecules to train on; the tokenizer is being made")
        stride = max(1, len(strings) // TOKENIZER_STRINGS)
        tokenizer = train_tokenizer(strings[::stride], size)
        tokenizer.save_pretrained(out / "tokenizer")
        arrays = {}
        for split, some in (
            ("train", strings),
            *((split, molecules(split)[:: 176_000 // HELD_OUT]) for split in splits),
        ):
            rows = Rows.of(some, tokenizer)
            arrays |= {f"{split}_ids": rows.ids, f"{split}_starts": rows.starts}
        np.savez(kept.with_suffix(".tmp.npz"), **arrays)
        kept.with_suffix(".tmp.npz").replace(kept)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
    stored = np.load(kept)
    train, *held_out = (
        Rows.around(stored[f"{split}_ids"], stored[f"{split}_starts"], tokenizer)
        for split in ("train", *splits)
    )
    return tokenizer, train, dict(zip(splits, held_out, strict=True))


def build_model(shape: Shape, rows: Rows, seed: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings and weights drawn from the seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **asdict(shape),
        tie_word_embeddings=True,
        bos_token_id=rows.begin,
        eos_token_id=rows.end,
        pad_token_id=rows.pad,
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


def loss_of(
    model: LlamaForCausalLM, batch: Int[Tensor, "rows seq"], pad: int, bf16: bool
) -> tuple[Tensor, int]:
    """Summed nats of every token behind the first, padding left out, and how many there are.

    Padding is on the right, where no token attends to it.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    targets = batch[:, 1:]
    nats = cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=pad, reduction="sum"
    )
    return nats, int((targets != pad).sum())


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, rows: Rows, bf16: bool) -> float:
    """Nats a token of whole rows, of which none asks."""
    model.eval()
    order = np.argsort(np.diff(rows.starts), kind="stable")
    found = [
        loss_of(model, rows.batch(some), rows.pad, bf16)
        for some in np.array_split(order, math.ceil(len(rows) / 256))
    ]
    model.train()
    return float(sum(nats for nats, _ in found)) / sum(count for _, count in found)


def scale_at(progress: float, warmup: float) -> float:
    """The factor on the learning rate at a share of the plan: a warm-up, then half a cosine."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


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


def log(message: str) -> None:
    """Write one line of progress."""
    print(message, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def main() -> None:
    """Train, with the options below."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--minutes", type=float, default=70.0, help="time to train")
    parser.add_argument("--tokens", type=int, help="tokens to train on, instead of --minutes")
    parser.add_argument("--molecules", type=int, help="so many of the train split, from its start")
    parser.add_argument("--vocabulary", type=int, default=Shape.vocab_size)
    parser.add_argument("--layers", type=int, default=Shape.num_hidden_layers)
    parser.add_argument("--batch", type=int, default=256, help="molecules for each update")
    parser.add_argument("--lr", type=float, default=0.006, help="of the matrices (Muon)")
    parser.add_argument("--embedding-lr", type=float, default=0.004, help="of the rest (AdamW)")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=float, default=0.02, help="share of the plan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--save-every", type=float, default=300.0, help="seconds")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    _, rows, held_out = prepare(args.out, args.vocabulary, args.molecules)
    log(f"{len(rows):,} molecules of {len(rows.ids) / len(rows):.2f} tokens")
    shape = Shape(vocab_size=args.vocabulary, num_hidden_layers=args.layers)
    model = build_model(shape, rows, args.seed)
    optimizer = Optimizer(model, args.lr, args.embedding_lr, args.weight_decay)
    log(f"{sum(p.numel() for p in model.parameters()):,} parameters")

    kept = args.out / "checkpoint.pt"
    steps, tokens, seconds = 0, 0, 0.0
    if kept.exists():
        saved = torch.load(kept)
        model.load_state_dict(saved["model"])
        for part, state in zip(optimizer.parts, saved["optimizer"], strict=True):
            part.load_state_dict(state)
        steps, tokens, seconds = saved["steps"], saved["tokens"], saved["seconds"]
        log(f"resumed after {steps:,} steps, {clock(seconds)}")

    def progress() -> float:
        return tokens / args.tokens if args.tokens else seconds / (args.minutes * 60)

    def save(train_loss: float) -> None:
        losses = {split: held_out_loss(model, some, args.bf16) for split, some in held_out.items()}
        line = {"steps": steps, "tokens": tokens, "seconds": seconds, "train": train_loss, **losses}
        log("held out, nats/token: " + ", ".join(f"{k} {v:.4f}" for k, v in losses.items()))
        with (args.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 4) for k, v in line.items()}) + "\n")
        state = {
            "model": model.state_dict(),
            "optimizer": [part.state_dict() for part in optimizer.parts],
            "steps": steps,
            "tokens": tokens,
            "seconds": seconds,
        }
        torch.save(state, kept.with_suffix(".tmp"))
        kept.with_suffix(".tmp").replace(kept)
        write_model(model, args.out / "tokenizer", args.out / "model")

    mean, rate, saved_at = 0.0, 0.0, seconds
    stream = rows.batches(args.batch, args.seed, skip=steps)
    model.train()
    while progress() < 1:
        began = time.monotonic()
        nats, count = loss_of(model, next(stream), rows.pad, args.bf16)
        (nats / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(scale_at(progress(), args.warmup))
        took = time.monotonic() - began
        steps, tokens, seconds = steps + 1, tokens + count, seconds + took
        loss = nats.item() / count
        mean = 0.98 * mean + 0.02 * loss if mean else loss
        rate = 0.98 * rate + 0.02 * count / took if rate else count / took
        if steps % 50 == 0:
            left = seconds * (1 / progress() - 1)
            log(
                f"step {steps:,}  {progress():6.1%}  epoch {steps * args.batch / len(rows):.2f}  "
                f"loss {mean:.3f}  {rate:.0f} tokens/s  {clock(seconds)} done  {clock(left)} left"
            )
        if seconds - saved_at >= args.save_every:
            saved_at = seconds
            save(mean)
    if seconds > saved_at or not (args.out / "model").exists():
        save(mean)


if __name__ == "__main__":
    main()
