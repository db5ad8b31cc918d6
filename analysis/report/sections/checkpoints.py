"""Single checkpoints, where one seed a setting is all there is: before and after training, and each against each."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.inference import before_after, checkpoints
from analysis.inference.before_after import Change
from analysis.inference.checkpoints import PairedTest, PairScore
from analysis.measures import BY_COLUMN, format_p
from analysis.report.document import Block, Cell, Heading, Prose, Section, Table
from analysis.report.plots import Canvas
from analysis.report.sections.cells import setting, with_interval
from analysis.study import Study
from workbench.tracking.names import PAIR_MARGIN


def section(study: Study, canvas: Canvas) -> Section | None:
    """Compares checkpoints; None where some setting has two finished seeds, because then methods are compared."""
    if not checkpoints.one_seed(study):
        return None
    found = Section("Checkpoints", _before_after(study))
    scores = checkpoints.pair_scores(study)
    counted, tests = checkpoints.paired_tests(study)
    if scores:
        found.blocks.append(Heading("On the held-out pairs"))
        about = (
            "These are statements about these weights on these pairs, and about nothing else: the spread of another "
            "seed is unknown."
        )
        if tests and checkpoints.cannot_tell_apart(tests):
            about += " No two checkpoints can be told apart on these pairs at 0.05 after Holm."
        found.blocks += [Prose(about), pair_scores(scores)]
    if tests:
        found.blocks += [Heading("Checkpoint against checkpoint (exact McNemar)"), paired_tests(tests, counted)]
    return found if found.blocks else None


def _before_after(study: Study) -> list[Block]:
    changes = before_after.changes(study)
    if not changes:
        return []
    about = (
        "The same held-out items, before the first step and from the model that each run left: what changed in these "
        "weights. Nothing here says what another seed would give."
    )
    return [Heading("Before and after training"), Prose(about), before_after_table(changes)]


def pair_scores(scores: Sequence[PairScore]) -> Table:
    """Checkpoints on the held-out pairs."""
    rows, flat = [], []
    for s in scores:
        rows.append(
            [
                setting(s.variant, (f"seed {s.seed}",)),
                Cell(f"{s.accuracy.mean:.3f}", s.accuracy.mean, (f"{s.accuracy.low:.3f} to {s.accuracy.high:.3f}",)),
                Cell(format_p(s.against_even.p), s.against_even.p),
                with_interval(s.margin, BY_COLUMN[PAIR_MARGIN]),
                Cell(str(s.accuracy.n), float(s.accuracy.n), (f"{s.ties} tied",)),
            ]
        )
        flat.append(
            {
                "variant": s.variant.name,
                "seed": s.seed,
                "pairs": s.accuracy.n,
                "ties": s.ties,
                "accuracy": s.accuracy.mean,
                "accuracy_low": s.accuracy.low,
                "accuracy_high": s.accuracy.high,
                "p_sign_test": s.against_even.p,
                "margin": s.margin.mean,
                "margin_low": s.margin.low,
                "margin_high": s.margin.high,
            }
        )
    columns = [
        ("checkpoint", ""), ("pair accuracy", "share, 95 % Wilson"), ("against one half", "exact sign test"),
        ("margin", "nats, 95 % t over pairs"), ("pairs", ""),
    ]  # fmt: skip
    caption = (
        "Pair accuracy is the share of pairs with h > 0, ties one half, with Wilson's interval; the sign test asks "
        "whether chosen and rejected are preferred equally often. The margin is the mean of h. Pairs are taken as "
        "independent; pairs that share a prompt would make these intervals too narrow."
    )
    return Table("checkpoints", columns, rows, flat, label="Pair accuracy of each checkpoint", caption=caption)


def paired_tests(tests: Sequence[PairedTest], counted: str, folded: str = "") -> Table:
    """Exact McNemar between checkpoints."""
    rows = [
        [
            setting(t.first),
            setting(t.second),
            Cell(str(t.only_first), float(t.only_first)),
            Cell(str(t.only_second), float(t.only_second)),
            Cell(str(t.items), float(t.items)),
            Cell(format_p(t.exact.p), t.exact.p),
            Cell(format_p(t.adjusted), t.adjusted),
        ]
        for t in tests
    ]
    flat = [
        {
            "first": t.first.name,
            "second": t.second.name,
            "items": t.items,
            "only_first": t.only_first,
            "only_second": t.only_second,
            "p_mcnemar": t.exact.p,
            "p_holm": t.adjusted,
        }
        for t in tests
    ]
    names = ["first", "second", "only first right", "only second right", "items", "McNemar", f"Holm, m = {len(tests)}"]
    caption = (
        f"Counted: {counted}. Checkpoint level only: a small p says that these two sets of weights differ on these "
        "items, not that one setting is better than another."
    )
    label = "Exact McNemar tests between checkpoints"
    heads = [(name, "") for name in names]
    return Table("paired_checkpoints", heads, rows, flat, label=label, caption=caption, folded=folded)


def before_after_table(found: Sequence[Change]) -> Table:
    """Each checkpoint's held-out measures before training and after it."""
    rows, flat = [], []
    for c in found:
        ends = [with_interval(interval, c.measure) for interval in (c.before, c.after)]
        rows.append([setting(c.variant), Cell(c.measure.axis_label), *ends, Cell(c.amount, c.change.mean), Cell(c.how)])
        flat.append(
            {
                "variant": c.variant.name,
                "measure": c.measure.column,
                "items": c.after.n,
                "before": c.before.mean,
                "before_low": c.before.low,
                "before_high": c.before.high,
                "after": c.after.mean,
                "after_low": c.after.low,
                "after_high": c.after.high,
                "change": c.change.mean,
                "change_low": c.change.low,
                "change_high": c.change.high,
                "p_mcnemar": c.p,
            }
        )
    names = ["checkpoint", "measure", "before", "after", "change", "how it was compared"]
    caption = (
        "Exact match: Wilson's interval over prompts. Loss: nats a token over all rows, with a t interval over rows; "
        "its change is paired by row, which takes out how hard each row is."
    )
    return Table(
        "before_after", [(name, "") for name in names], rows, flat, label="Before and after training", caption=caption
    )
