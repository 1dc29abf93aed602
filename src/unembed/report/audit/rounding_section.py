"""The section of an audit's page on what rounding would change."""

from __future__ import annotations

from markupsafe import Markup

from unembed.decisions.audit.bfloat16 import Bfloat16Rounding
from unembed.decisions.audit.summary import AuditSummary
from unembed.report.parts.parts import Section, estimates_table
from unembed.report.parts.wording import Wording, share
from unembed.stats.estimate import Estimate

TITLE = "What rounding would change"


def rounding_section(summary: AuditSummary, rounding: Bfloat16Rounding) -> Section:
    """Decisions that bfloat16 logits touch, and where to see what else rounding does."""
    rows: dict[str, tuple[Estimate, Wording] | str] = {
        "margin below one bfloat16 step": (rounding.within_step, share),
        "first two tied once rounded": (rounding.tied, share),
        "another token wins the tie": (rounding.changed, share),
    }
    native = summary.native
    if native is not None and native.dtype == "bfloat16":
        rows["another token, by the bfloat16 head itself"] = (native.changed_top1, share)
    lead = Markup(
        "A server that keeps logits in bfloat16 keeps 8 significant bits of them. That can change "
        "a decision only where the margin is below one rounding step: the first two logits then "
        "tie, and the lowest id wins. The table is computed from margins and top logits, without "
        "another pass. A model that runs in bfloat16 throughout moves its hidden states as well "
        "and changes more; <code>unembed compare MODEL MODEL CORPUS --dtype-after bfloat16 -o RUN"
        "</code> measures it. What int8 or int4 weights would change cannot be told from an audit; "
        "<code>unembed compare MODEL CORPUS --quantize int8 -o RUN</code> measures it."
    )
    table = estimates_table("Logits rounded to bfloat16, with 95 % intervals", rows, "decisions")
    return Section("rounding", TITLE, lead, (), (table,))
