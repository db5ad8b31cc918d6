"""Own rewards that end their process, leave things behind or break what is around them, under the real command."""

from __future__ import annotations

import json
import shutil

import psutil
import pytest

from tests.commands import Command
from tests.faults.labs import SORT, SWEEP, define, outcomes

pytestmark = [pytest.mark.slow, pytest.mark.multi]
RUN = "runs/evil/main/seed0"
SLEEP = "617.25"
SCORE = "[float(len(text)) for text in completions]"
LEFT = {
    "a pool": "import multiprocessing; global P; P = multiprocessing.get_context('fork').Pool(2); P.map(len, ['a'])",
    "a process of its own session": f"""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep({SLEEP})
        os._exit(0)""",
    "a program": f"import subprocess; subprocess.Popen(['sleep', '{SLEEP}'], start_new_session=True)",
    "a thread": f"import threading; threading.Thread(target=time.sleep, args=({SLEEP},)).start()",
    "another directory": "os.chdir('/')",
    "threads of torch": "import torch; torch.set_num_threads(3)",
    "no gradients": "import torch; torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)",
    "another seed": "import torch, random, numpy; torch.manual_seed(7); random.seed(7); numpy.random.seed(7)",
    "no streams": "import sys; sys.stdout = sys.stderr = None",
    "its own handlers": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "another environment": "os.environ.clear()",
}


@pytest.fixture
def lab(started):
    return started


def evil(lab, body, score=SCORE, **more):
    """An experiment whose reward runs the body at each call."""
    (lab / "reward.py").write_text(
        f"import os, time\n\n\ndef reward(prompts, completions, **_):\n    {body}\n    return {score}\n"
    )
    hyperparameters = SWEEP["arms"]["grpo"]["hyperparameters"] | SWEEP["hyperparameters"]
    define(
        lab,
        "evil",
        {
            "question": "q",
            "trainer": "grpo",
            "start_from": "start",
            "data": {**SORT, "rows": 64},
            "track": [],
            "hyperparameters": hyperparameters | {"steps": 3, "rewards": [{"file": "reward.py"}]} | more,
        },
    )


def train(lab):
    command = Command(lab, "run", "evil", "--allow-reward-code")
    code, said = command.end()
    assert "Traceback" not in said
    assert command.orphans() == []
    return code, said


@pytest.fixture
def expected(lab):
    """Of the run whose reward leaves nothing."""
    evil(lab, "pass")
    assert train(lab)[0] == 0
    return outcomes(lab / "runs")["evil/main/seed0"]


@pytest.mark.long
def test_what_own_code_leaves_moves_no_number_holds_no_lock_and_outlives_no_run(lab, expected):
    for name, body in LEFT.items():
        evil(lab, body)
        code, said = train(lab)
        assert code == 0, (name, said)
        assert outcomes(lab / "runs")["evil/main/seed0"] == expected, name
    assert not [p for p in psutil.process_iter(["cmdline"]) if SLEEP in (p.info["cmdline"] or [])]
    evil(lab, "pass")
    assert train(lab)[0] == 0, "no lock is held"


BREAKS = ("os._exit(0)", "import ctypes; ctypes.CDLL(None).exit(0)", "raise KeyboardInterrupt",
          "os.closerange(3, 1000)", "os.close(1); os.close(2)", "os.kill(os.getpid(), 9)",
          "raise GeneratorExit")  # fmt: skip


@pytest.mark.parametrize("body", BREAKS)
def test_a_reward_that_closes_or_ends_everything_stops_the_run_by_name(body, lab):
    evil(lab, body)
    code, said = train(lab)
    status = json.loads((lab / RUN / "status.json").read_text())
    assert (code, status["state"]) == (6, "failed"), said
    assert "reward reward: " in status["message"]


def test_an_exit_that_says_all_is_well_is_no_finished_run(lab, call):
    """Of the run's own process, wherever a library may end it."""
    import os

    from workbench.trainer.base_trainer import BaseTrainer

    shutil.rmtree(lab / "runs")
    define(lab, "after", {**SWEEP, "start_from": "start", "arms": {"grpo": SWEEP["arms"]["grpo"]}})
    for where in ("train", "resume"):
        code, said = call(
            "run", "after", before=lambda where=where: setattr(BaseTrainer, where, lambda *_, **__: os._exit(0))
        )
        assert code == 1, where
        status = json.loads((lab / "runs/start/main/seed0/status.json").read_text())
        assert status["state"] == "failed"
        assert "ended with exit code 0 before the run was finished" in status["message"]
        assert not (lab / "runs/after/grpo/seed0/status.json").exists()
    code, said = call("run", "after")
    assert code == 0, said


def test_what_descriptors_and_programs_print_has_no_secret(lab):
    secret = "canary-descriptor-5d1f"
    evil(
        lab,
        "import subprocess\n    os.write(1, os.environ['MY_API_TOKEN'][:9].encode()); time.sleep(0.05)\n"
        "    os.write(1, os.environ['MY_API_TOKEN'][9:].encode() + b' first\\n')\n"
        "    subprocess.run('echo $MY_API_TOKEN second', shell=True)\n"
        f"    subprocess.Popen(['sleep', '{SLEEP}'], start_new_session=True)\n"
        "    os.write(2, b'last words')",
    )
    command = Command(lab, "run", "evil", "--allow-reward-code", MY_API_TOKEN=secret)
    code, said = command.end()
    assert code == 0, said
    assert command.orphans() == []
    log = (lab / RUN / "log.txt").read_text()
    assert secret not in log
    assert "*** first" in log
    assert "*** second" in log
    assert "last words" in log
