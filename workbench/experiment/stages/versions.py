"""The version of what each stage makes: raised where the same key would give another result, it makes stages anew, and
the runs that rest on them."""

from __future__ import annotations

VERSIONS = {"data": 8, "collect": 2, "ref_logprobs": 3}
