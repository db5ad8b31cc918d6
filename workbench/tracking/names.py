"""Names of held-out metrics: who measures them, who judges by them and who shows them take each from here.

Of several held-out sets the deciding one has these names, and another one's are eval/<set>/exact_match_greedy, ...
"""

EXACT_MATCH_SAMPLED = "eval/exact_match_sampled"
EXACT_MATCH_GREEDY = "eval/exact_match_greedy"
PAIR_ACCURACY = "eval/pair_accuracy"
PAIR_MARGIN = "eval/pair_margin"
PAIR_ACCURACY_OWN = "eval/pair_accuracy_own"
KL_START = "eval/kl_start"
HELD_OUT_LOSS = "eval/loss"
COMPLETION_TOKENS = "eval/completion_tokens"
ENDED = "eval/ended"
SCORE_MEAN = "eval/score_mean"
SCORE_SD = "eval/score_sd"
LENGTH_CORRELATION = "eval/length_correlation"
NUM_PROMPTS = "eval/num_prompts"
NUM_PAIRS = "eval/num_pairs"

PASS_AT = "eval/pass_at_"
MAJORITY_AT = "eval/majority_at_"
"""They end with k, the number of samples."""

DECIDING = (EXACT_MATCH_SAMPLED, EXACT_MATCH_GREEDY, PAIR_ACCURACY, HELD_OUT_LOSS)
"""Which measure decides, first one that the runs have: fixed here, before any result is seen. Less is better of a loss
alone, and it decides only among runs that learn from rows."""

SET = "set"
"""The field of a record's row that says which of several held-out sets it is of."""
_PREFIX = "eval/"


def metric_of_set(metric: str, name: str) -> str:
    """A held-out metric as a set that does not decide has it."""
    return f"{_PREFIX}{name}/{metric.removeprefix(_PREFIX)}"


def plain_name(metric: str, name: str) -> str:
    """The mirror of metric_of_set."""
    return f"{_PREFIX}{metric.removeprefix(f'{_PREFIX}{name}/')}"


def is_of_set(metric: str, name: str | None, *, decides: bool) -> bool:
    """Whether an entry of a metrics row was measured on this held-out set. name: None for a run's only one."""
    if name is None:
        return metric.startswith(_PREFIX)
    if metric == seconds_of_set(name):
        return True
    return metric.startswith(_PREFIX) and metric.rpartition("/")[0] == (_PREFIX[:-1] if decides else f"{_PREFIX}{name}")


def is_measured(metric: str) -> bool:
    """Whether an entry of a metrics row comes of measuring on held-out sets, its time among it."""
    return metric.startswith((_PREFIX, f"time/{_PREFIX}"))


def seconds_of_set(name: str) -> str:
    """The seconds that measuring on one of several held-out sets took, of one evaluation."""
    return f"time/{_PREFIX}{name}_seconds"


def of_samples(metric: str) -> tuple[str, int] | None:
    """What a held-out metric of several samples a prompt is and of how many, such as ("pass", 8); None of others."""
    for prefix in (PASS_AT, MAJORITY_AT):
        number = metric.removeprefix(prefix)
        if number != metric and number.isdigit():
            return prefix.removeprefix(_PREFIX).removesuffix("_at_"), int(number)
    return None


def in_record(metric: str) -> str:
    """The name of a prompt's own value of a held-out metric, in the row of its first sample."""
    return metric.removeprefix(_PREFIX)
