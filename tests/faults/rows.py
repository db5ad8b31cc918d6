"""The fault matrix: every fault that must be survived, and the tests that inject it for real.

A pattern is that of a test's id below tests/, as pytest writes it, with * for anything.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One row: what happens, what is promised, and who checks it."""

    number: int
    what: str
    promise: str
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        1,
        "SIGKILL at random times and at every named point",
        "resumes to the same bits",
        ("contracts/test_random_kills.py::*", "contracts/test_resume.py::test_sigkill*",
         "faults/test_write_points.py::*", "faults/test_killed_commands.py::*",
         "experiment/test_runner.py::test_runs_whose_runner_was_killed*"),
    ),
    Fault(
        2,
        "SIGTERM or Ctrl-C in any phase",
        "a checkpoint, exit 143 or 130; a second signal stops at once",
        ("contracts/test_resume.py::test_sigterm*", "contracts/test_resume.py::test_interrupted_at_every_step*",
         "test_interrupts.py::*", "faults/test_stopped_commands.py::*",
         "experiment/test_runner.py::test_a_signal_leaves_a_checkpoint*"),
    ),
    Fault(
        3,
        "the record cut at any byte of its last two lines",
        "every whole line is read; no gap and no duplicate",
        ("tracking/test_store.py::test_a_tail_torn*", "tracking/test_store.py::test_a_last_line_of_garbage*",
         "tracking/test_reader.py::test_every_whole_line*", "tracking/sinks/*::test_a_resume_that_cut_rows*",
         "faults/test_records.py::*"),
    ),
    Fault(
        4,
        "a flipped bit or a truncation in a checkpoint, stage, model or Parquet copy",
        "found before use; the last valid one is taken",
        ("trainer/test_checkpoint.py::test_any_*", "trainer/test_checkpoint.py::test_the_newest_valid*",
         "contracts/test_resume.py::test_a_damaged_newest*", "experiment/test_stages.py::test_a_flipped_bit*",
         "experiment/test_runner.py::test_a_damaged_start*", "tracking/test_parquet.py::test_no_flipped_bit*",
         "faults/test_damage.py::*"),
    ),
    Fault(
        5,
        "disk full, file too large, folder read-only or gone",
        "one line, exit 4, the last checkpoint intact",
        ("trainer/test_checkpoint.py::test_a_failing_write*", "tracking/test_store.py::test_a_failing_disk*",
         "experiment/test_runner.py::test_a_folder_that_cannot*",
         "test_locks.py::test_a_folder_that_cannot*",
         "analysis/test_report.py::test_a_report_that_cannot*", "tracking/test_store.py::test_a_file_that_is_gone*",
         "faults/test_disks.py::*"),
    ),
    Fault(
        6,
        "malformed definitions, and any bytes at all",
        "exit 2, a line each, no run folder",
        ("experiment/definition/test_malformed.py::*", "experiment/definition/test_fuzz.py::*",
         "test_cli.py::test_all_problems*"),
    ),
    Fault(
        7,
        "names that lead out of the tree",
        "nothing written outside; exit 2",
        ("test_cli.py::test_a_name_that_leads_out*", "test_cli.py::test_compare_refuses*",
         "experiment/definition/test_resolve.py::test_the_folder_of_an_override*"),
    ),
    Fault(
        8,
        "bad data rows, and any bytes at all",
        "file:line and reason; skipped and counted where asked",
        ("data/test_malformed_rows.py::*", "data/test_fuzz.py::*", "experiment/test_runner.py::test_bad_rows*"),
    ),
    Fault(
        9,
        "code in pickles, models, YAML, rewards and templates",
        "never run",
        ("models/test_load.py::test_remote_code*", "rewards/test_classifier.py::test_pickles_and_remote_code*",
         "data/test_sandbox.py::test_a_hostile_template*", "data/test_sandbox.py::test_random_templates*",
         "rewards/test_kinds.py::test_own_code_is_not_run*", "trainer/test_checkpoint.py::test_only_safetensors*",
         "tracking/test_reader.py::test_a_hostile_definition*", "faults/test_code_in_data.py::*"),
    ),
    Fault(
        10,
        "secrets in environment, command, YAML, URL and diff",
        "in no file",
        ("experiment/test_runner.py::test_a_secret*", "experiment/test_provenance.py::test_*secret*",
         "tracking/sinks/test_redaction.py::*", "tracking/sinks/*::test_*secret*", "faults/test_secrets.py::*"),
    ),
    Fault(
        11,
        "many starts of one experiment at once",
        "one proceeds; the others exit 5 and name it",
        ("test_locks.py::*", "faults/test_simultaneous_starts.py::*",
         "experiment/test_runner.py::test_of_many_starts*"),
    ),
    Fault(
        12,
        "a tracker that hangs, crashes, or has no server or disk",
        "training neither stops nor waits; the record is whole",
        ("tracking/sinks/test_follow.py::*", "tracking/sinks/test_wandb.py::test_an_unreachable*",
         "tracking/sinks/test_wandb.py::test_a_place_that*", "tracking/test_parity.py::*",
         "faults/test_trackers.py::*"),
    ),
    Fault(
        13,
        "NaN, infinity or a spike at a step",
        "stop, skip or roll back as declared",
        ("trainer/test_base_trainer.py::test_a_skip*",
         "trainer/test_base_trainer.py::test_*rollback*", "contracts/test_resume.py::test_a_rollback*",
         "contracts/test_divergence.py::*", "trainer/test_spikes.py::*", "experiment/test_incidents.py::*"),
    ),
    Fault(
        14,
        "rewards that raise or are no number; nothing to learn from; a wrong reference",
        "exit 6 with the prompt; dead signals after their patience",
        ("rewards/test_reward.py::*", "trainer/test_signals.py::*", "trainer/test_rollouts.py::test_a_failing_reward*",
         "trainer/test_rollouts.py::test_a_rollout_of_which*", "faults/test_rewards.py::*",
         "trainer/test_dpo_trainer.py::test_an_empty_part*",
         "trainer/test_sft_trainer.py::test_rows_without_a_label*",
         "trainer/test_dpo_trainer.py::test_a_wrong_reference*"),
    ),
    Fault(
        15,
        "out of memory on a micro-batch",
        "halved, kept, no number moves; at one row exit 6",
        ("contracts/test_out_of_memory.py::*",),
    ),
    Fault(
        16,
        "another cut into micro-batches, padding, packing or processes",
        "the same losses, gradients and evaluations",
        ("contracts/test_gradient.py::*", "trainer/test_distributed.py::*"),
    ),
    Fault(
        17,
        "a process of a job killed, stopped, raising or hanging",
        "the job ends with code 7 in 30 s and names it; a restart is exact",
        ("trainer/test_peers.py::*",),
    ),
    Fault(
        18,
        "rotation with the best oldest, a stale step, a delete that fails",
        "k newest, the best and the newest valid survive",
        ("trainer/test_checkpoint.py::test_rotation*", "trainer/test_checkpoint.py::test_a_delete*",
         "faults/test_rotation.py::*"),
    ),
    Fault(
        19,
        "a resume under another definition, data, library or thread count",
        "refused by name; marked where it was asked for",
        ("contracts/test_changed_resume.py::*",
         "experiment/test_runner.py::test_a_changed_definition*", "faults/test_changed_surroundings.py::*"),
    ),
    Fault(
        20,
        "a stage killed while written, written twice, poisoned",
        "never a partial hit; verified by hash",
        ("experiment/test_stages.py::*", "faults/test_stages_killed.py::*"),
    ),
    Fault(
        21,
        "data, held-out file, start, model, reward file or stage changed between plan and use, or while read",
        "refused by name; nothing kept under an identity that it does not have",
        ("experiment/test_changed_inputs.py::*",),
    ),
    Fault(
        22,
        "a run's process that ends with code 0 and is not finished",
        "failed, by name; nothing begins from it",
        ("faults/test_reward_code.py::test_an_exit_that_says_all_is_well*",
         "experiment/test_launchers.py::test_workers_that_end_early*"),
    ),
    Fault(
        23,
        "a resume under other code of the workbench: commit, uncommitted change, installed version",
        "refused by name; marked where it was asked for",
        ("contracts/test_changed_resume.py::test_a_resume_under_other_code*",
         "contracts/test_changed_resume.py::test_a_checkpoint_that_does_not*",
         "contracts/test_changed_resume.py::test_code_is*", "faults/test_changed_surroundings.py::test_other_code*"),
    ),
    Fault(
        24,
        "a model folder that lacks a weight or a buffer, has extra or stale ones, or computes otherwise here",
        "refused by name, or the slower right way; never another number",
        ("models/test_weights.py::*", "models/test_load.py::test_weights_that_are_not*", "models/test_positions.py::*",
         "models/test_llama_config.py::*", "experiment/test_positions.py::*", "models/test_probe.py::test_[!e]*",
         "models/test_broken_folders.py::*", "models/test_own_check.py::*"),
    ),
    Fault(
        25,
        "what reward code leaves: processes, threads, directory, descriptors, thread counts, dtype, gradients off",
        "no number moves, or it stops by name; nothing outlives the run, no lock stays held",
        ("faults/test_reward_code.py::test_what_own_code_leaves*",
         "faults/test_reward_code.py::test_a_reward_that_closes*",
         "faults/test_reward_code.py::test_what_descriptors*", "rewards/test_guard.py::*", "rewards/test_workers.py::*",
         "experiment/test_run_log.py::*"),
    ),
    Fault(
        26,
        "shell and make: quotes, $, backticks and globs in every variable",
        "passed on as text; no code runs; what the report offers can be pasted",
        ("test_makefile.py::test_every_value*", "test_makefile.py::test_a_list*",
         "test_makefile.py::test_a_file_named*", "test_makefile.py::test_the_environment*",
         "test_makefile.py::test_the_real*", "test_makefile.py::test_a_switch*", "test_makefile.py::test_a_variable*",
         "test_makefile.py::test_settings*", "test_makefile.py::test_what_the*"),
    ),
    Fault(
        27,
        "inputs made to cost: giant numbers, endless patterns and templates, a half-made .venv",
        "one line within 10 s and 1 GB",
        ("test_cli.py::test_a_mistake*", "test_cli.py::test_too_little*", "test_cli.py::test_streams*",
         "experiment/definition/test_malformed.py::test_numbers_and_paths*",
         "test_makefile.py::test_a_venv*", "test_makefile.py::test_a_link*", "rewards/test_patterns.py::*",
         "rewards/test_math.py::test_an_expression_made_to_cost*",
         "data/test_sandbox.py::test_a_template_that_costs*", "data/test_sandbox.py::test_random_filters*"),
    ),
)  # fmt: skip


def rows_of(nodeid: str) -> list[int]:
    """The rows that a test checks."""
    name = nodeid.removeprefix("tests/").split("[")[0]
    return [fault.number for fault in FAULTS if any(fnmatch.fnmatchcase(name, pattern) for pattern in fault.tests)]
