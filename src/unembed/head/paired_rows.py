"""The same tokens' rows of two heads, wherever they are held, side by side in one process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from unembed.head.head import Head
from unembed.head.peers import RowShare


@dataclass(frozen=True)
class RowPair:
    """Rows of two heads from the id ``start`` on, each a head of its own that is held here."""

    start: int
    first: Head
    second: Head


def paired_rows(first: Head, second: Head) -> list[RowPair]:
    """The rows of two heads that this process compares: together, those of the smaller vocabulary.

    Two whole heads are one pair, as they are. Where processes hold one of them between them, each
    compares the rows that it holds of that one (of the first, if both are shared). Heads of other
    numbers of rows begin their shares at other ids: the few rows of the second that lie with
    another process are sent, and all processes must call this.
    """
    share = first.share or second.share
    if share is None:
        return [RowPair(0, first, second)]
    vocab = min(first.vocab, second.vocab)
    here = range(share.first, min(share.stop, vocab))
    if first.share is None or second.share is None:
        if not here:
            return []
        return [RowPair(here.start, *(_some(head, here) for head in (first, second)))]
    ends = {min(end, vocab) for each in (first.share, second.share) for end in _ends(each)}
    spans = [range(*span) for span in pairwise(sorted(ends))]
    sent = [span for span in spans if _owner(first.share, span) != _owner(second.share, span)]
    arrived = _sent_rows(second, sent)
    return [
        RowPair(span.start, _some(first, span), arrived.get(span.start) or _some(second, span))
        for span in spans
        if span.start in here
    ]


def _ends(share: RowShare) -> list[int]:
    """The ids at which shares begin, and the number of rows."""
    return [sum(share.counts[:place]) for place in range(len(share.counts) + 1)]


def _owner(share: RowShare, span: range) -> int:
    """Who holds these rows, which are all of one process."""
    return next(i for i, end in enumerate(_ends(share)[1:]) if span.start < end)


def _some(head: Head, span: range) -> Head:
    """These rows of a head that holds them here."""
    held = slice(span.start - head.first, span.stop - head.first)
    return replace(
        head,
        weight=head.weight[held],
        bias=None if head.bias is None else head.bias[held],
        valid=None if head.valid is None else head.valid[span.start : span.stop],
        share=None,
    )


def _sent_rows(head: Head, spans: list[range]) -> dict[int, Head]:
    """These rows of a head, from whoever holds them, by the first id of each span."""
    if not spans:
        return {}
    device = head.weight.device
    ids = torch.cat([torch.arange(span.start, span.stop, device=device) for span in spans])
    rows, bias = head.rows_at(ids), head.bias_at(ids)
    found, top = {}, 0
    for span in spans:
        at = slice(top, top + len(span))
        found[span.start] = replace(
            head,
            weight=rows[at],
            bias=None if bias is None else bias[at],
            valid=None if head.valid is None else head.valid[span.start : span.stop],
            share=None,
        )
        top = at.stop
    return found
