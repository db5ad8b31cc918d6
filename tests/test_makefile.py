"""`make`: every value of its variables is passed on as text, and a .venv that is not this folder's own is noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.experiment.definition.overrides import join_settings, split_settings
from workbench.experiment.definition.source import show
from workbench.experiment.planning import plan_file

ROOT = Path(__file__).parents[1]
NASTY = (
    "$(shell touch hacked)",
    "$$(touch hacked)",
    "${shell touch hacked}",
    "`touch hacked`",
    "'; touch hacked; '",
    '"; touch hacked; "',
    "x; touch hacked #",
    "a && touch hacked",
    "a | touch hacked",
    "a > hacked",
    "*",
    "[a-z]*",
    "~",
    "$HOME",
    "$(NAME)",
    "\\",
    "--help",
    "-h",
    "a\nb",
    "ä\u202e",
)
# Which argument each variable becomes, in which target.
WHOLE = {
    "exp": {"NAME": "", "RUNS": "--runs=", "JOBS": "--jobs=", "SET": "--settings="},
    "plan": {"NAME": "", "RUNS": "--runs=", "JOBS": "--jobs=", "SET": "--settings="},
    "data": {"NAME": "", "RUNS": "--runs=", "SET": "--settings=", "ROWS": "--rows=", "SPLIT": "--split="},
    "report": {"NAME": "", "RUNS": "--runs=", "SET": "--settings="},
    "compare": {"RUNS": "--runs="},
    "export": {"RUNS": "--runs=", "OUT": "--out=", "FORMAT": "--format="},
    "dashboard": {"RUNS": "--runs=", "PORT": "--port="},
    "sync": {"RUNS": ""},
}
WORDS = {"compare": "NAMES", "export": "NAMES", "faults": "ROWS", "bench": "BENCH"}
STUB = "#!/bin/sh\nprintf '%s\\0' \"$@\"\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The project as make sees it, set up, with a command that tells what it is given."""
    made = tmp_path_factory.mktemp("project")
    for name in ("Makefile", "setup.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, made / name)
    set_up(made)
    return made


def set_up(folder: Path) -> None:
    """A .venv that looks whole."""
    programs, packages = folder / ".venv/bin", folder / ".venv/lib/python3.11/site-packages"
    programs.mkdir(parents=True)
    for name in ("workbench", "python"):
        (programs / name).write_text(STUB)
        (programs / name).chmod(0o755)
    for name in ("torch", "transformers", "tokenizers", "safetensors", "pydantic", "yaml", "numpy", "pandas"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").touch()
    (folder / ".venv/.ready").write_text(f"{folder}\n{programs / 'python'}\n")


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=60
    )


def given(folder: Path, *arguments: str, **environment: str) -> list[str]:
    """The arguments that the command behind a target got."""
    done = make(folder, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    assert not (folder / "hacked").exists(), arguments
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("target", sorted(WHOLE))
def test_every_value_of_every_variable_arrives_as_it_was_given(folder, target, record_property):
    for value in NASTY:
        found = given(folder, target, *(f"{name}={value}" for name in WHOLE[target]))
        for name, option in WHOLE[target].items():
            assert f"{option}{value}" in found, (name, value, found)
            assert found.index(f"{option}{value}") > found.index("--") if name == "NAME" else True
    record_property("tries", len(NASTY) * len(WHOLE[target]))


@pytest.mark.parametrize("target", sorted(WORDS))
def test_a_list_is_cut_at_white_space_and_nowhere_else(folder, target, record_property):
    for value in NASTY:
        found = given(folder, target, f"{WORDS[target]}=one {value}")
        assert found[-1 - len(value.split()) :] == ["one", *value.split()], (value, found)
    record_property("tries", len(NASTY))


def test_a_file_named_as_a_value_changes_nothing(folder):
    (folder / "beta=3").touch()
    assert "--settings=beta=[0.3,3]" in given(folder, "exp", "NAME=x", "SET=beta=[0.3,3]")


def test_the_environment_gives_no_value(folder):
    variables = ("NAME", "RUNS", "JOBS", "SET", "FRESH", "SHARE", "REWARD_CODE", "INEXACT")
    found = given(folder, "exp", **dict.fromkeys(variables, "1"))
    assert found == ["run", "--runs=runs", "--settings=", "--", ""]


def test_a_switch_is_1_or_0(folder):
    assert "--fresh" in given(folder, "exp", "NAME=x", "FRESH=1")
    assert "--fresh" not in given(folder, "exp", "NAME=x", "FRESH=0")
    done = make(folder, "exp", "NAME=x", "FRESH=$(shell touch hacked)")
    assert (done.returncode, len(done.stderr.splitlines()), "allowed 1 or 0" in done.stderr) == (2, 1, True)
    assert not (folder / "hacked").exists()


def test_a_variable_that_nothing_reads_is_refused(folder):
    done = make(folder, "exp", "NAME=x", "STE=beta=1 $(shell touch hacked)")
    assert (done.returncode, len(done.stderr.splitlines()), "found STE=" in done.stderr) == (2, 1, True)
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("beta=0.2  steps=10", ["beta=0.2", "steps=10"]),
        ('data.path="my file.jsonl"', ["data.path=my file.jsonl"]),
        ("'data.path=it\"s mine.jsonl' a=b", ['data.path=it"s mine.jsonl', "a=b"]),
        ("columns={prompt: my question, b: c} beta=1", ["columns={prompt: my question, b: c}", "beta=1"]),
        ('beta=["a b", [c, "]"]] x=1', ['beta=["a b", [c, "]"]]', "x=1"]),
        (r"regex=\d+", [r"regex=\d+"]),
        ("path=a[1", ["path=a[1"]),
        ("", []),
    ],
)  # fmt: skip
def test_settings_are_cut_where_a_reader_would(text, words):
    assert split_settings(text) == words


@pytest.mark.parametrize("value", ["$(shell touch hacked)", "'\"; touch hacked #", "*", "`touch hacked` $HOME \\"])
def test_the_real_command_says_what_it_was_given(folder, tmp_path, value):
    (tmp_path / "experiments").mkdir()
    for name in ("Makefile", "setup.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    set_up(tmp_path)
    (tmp_path / ".venv/bin/workbench").write_text(f'#!/bin/sh\nexec {sys.executable} -m workbench.cli "$@"\n')
    done = make(tmp_path, "plan", f"NAME={value}", PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert lines == [f"command line: NAME: found {show(value)}, allowed the name of a file in experiments/ "
                     "(letters, digits, - and _, at most 100)"]  # fmt: skip
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("value", [*NASTY, "it's", '"', "[1, 2]", "{a: b}", "a b", "x'y\"z w"])
def test_what_the_report_offers_to_copy_gives_the_same_settings(value):
    words = [f"data.path={value}", "beta=0.1", f"a={value} {value}"]
    assert split_settings(join_settings(words)) == words


@pytest.mark.parametrize("value", [*NASTY, "it's\n$HOME `x`", "\x1b[31m\t'\\'", "\u202e\U000e0001é\x7f\x9b", "!!"])
def test_what_the_report_offers_to_copy_is_one_line_that_the_shell_reads_as_it_was(value, tmp_path):
    shown = plan_file._quoted(value)
    assert len(shown.splitlines()) == 1
    assert shown.isprintable()
    kept = {"LC_ALL": "C.UTF-8", "HOME": "/none", "PATH": os.defpath}
    shell = ["bash", "-c", f"printf %s {shown}"]
    done = subprocess.run(shell, cwd=tmp_path, env=kept, capture_output=True, check=True, timeout=10)
    assert done.stdout.decode() == value
    assert list(tmp_path.iterdir()) == []


def check(folder: Path) -> bool:
    """Whether make would use .venv as it is."""
    return subprocess.run(["bash", "setup.sh", "check"], cwd=folder, timeout=10, check=False).returncode == 0


def _moved(folder: Path) -> Path:
    return folder.rename(folder.with_name("moved"))


def _copied(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.with_name("copy"), symlinks=True))


def _copied_before_stamps_named_their_folder(folder: Path) -> Path:
    (folder / ".venv/bin/workbench").write_text(f"#!{folder}/.venv/bin/python\n")
    (folder / ".venv/.ready").write_text("")
    assert check(folder)
    return _copied(folder)


def _killed(folder: Path) -> Path:
    (folder / ".venv/.ready").unlink()
    return folder


def _without_a_package(folder: Path) -> Path:
    shutil.rmtree(folder / ".venv/lib/python3.11/site-packages/torch")
    return folder


def _without_packages(folder: Path) -> Path:
    shutil.rmtree(folder / ".venv/lib")
    return folder


def _of_a_python_that_is_gone(folder: Path) -> Path:
    (folder / ".venv/bin/python").unlink()
    (folder / ".venv/bin/python").symlink_to("/usr/bin/python3.0")
    return folder


def _of_a_python_that_became_another(folder: Path) -> Path:
    (folder / "python3.12").write_text("#!/bin/sh\n")
    (folder / "python3.12").chmod(0o755)
    (folder / ".venv/bin/python").unlink()
    (folder / ".venv/bin/python").symlink_to(folder / "python3.12")
    return folder


@pytest.mark.parametrize(
    "happen",
    [_moved, _copied, _copied_before_stamps_named_their_folder, _killed, _without_a_package, _without_packages,
     _of_a_python_that_is_gone, _of_a_python_that_became_another],
)  # fmt: skip
def test_a_venv_that_is_not_whole_or_not_its_folders_own_is_made_anew(folder, tmp_path, happen):
    project = tmp_path / "project"
    project.mkdir()
    for name in ("Makefile", "setup.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, project / name)
    set_up(project)
    assert check(project)
    project = happen(project)
    assert not check(project)
    (project / ".venv/old").touch()
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\n[ "$*" = "-m venv .venv" ] || exit 0\n'
        'mkdir -p .venv/bin\nfor each in python uv; do cp "$0" .venv/bin/$each; done\n'
    )
    python.chmod(0o755)
    done = make(project, "setup", f"PYTHON={python}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Setting up .venv anew, for "), done.stderr
    assert not (project / ".venv/old").exists()
    assert (project / ".venv/.ready").read_text().splitlines()[0] == str(project)


def test_a_link_to_the_venv_of_another_folder_is_left_as_it_is(folder, tmp_path):
    for name in ("Makefile", "setup.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (folder / ".venv/pyvenv.cfg").touch()
    (tmp_path / ".venv").symlink_to(folder / ".venv")
    done = make(tmp_path, "setup")
    assert (done.returncode, "remove the link" in done.stderr) == (2, True)
    assert check(folder)


def a_python(path: Path, minor: str, whole: Path) -> Path:
    """A program that says it is Python 3.<minor>, and makes a .venv that looks whole once the file `go` is there."""
    path.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && echo python3.{minor}\n'
        '[ "$*" = "-m venv .venv" ] || exit 0\necho made >>made\nuntil [ -e go ]; do sleep 0.05; done\n'
        f'cp -R "{whole}/.venv" .venv\nrm .venv/.ready\ncp .venv/bin/python .venv/bin/uv\n'
        f"[ {minor} = 11 ] || mv .venv/lib/python3.11 .venv/lib/python3.{minor}\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def project(folder, tmp_path) -> Path:
    """The project without a .venv."""
    made = tmp_path / "project"
    made.mkdir()
    for name in ("Makefile", "setup.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, made / name)
    return made


def test_a_python_of_another_minor_version_makes_the_venv_anew_and_one_of_the_same_leaves_it(folder, project, tmp_path):
    (project / "go").touch()
    same, other = (a_python(tmp_path / f"python3.{minor}", minor, folder) for minor in ("11", "12"))
    set_up(project)
    for python, times in ((same, 0), (other, 1), (other, 1), (same, 2)):
        done = make(project, "setup", f"PYTHON={python}")
        assert done.returncode == 0, done.stderr
        made = (project / "made").read_text().count("made") if (project / "made").exists() else 0
        assert made == times, python
    assert f"Setting up .venv anew, for its Python is another than {same} ..." in done.stderr
    assert check(project)


def test_of_two_set_ups_at_once_one_waits_and_finds_it_done(folder, project, tmp_path):
    python = a_python(tmp_path / "python3", "11", folder)
    started = [
        subprocess.Popen(["bash", "setup.sh"], cwd=project, env=os.environ | {"PYTHON": str(python)},
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    deadline = time.monotonic() + 20
    while not (project / "made").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    (project / "go").touch()
    said = [process.communicate(timeout=30)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert (project / "made").read_text() == "made\n"
    assert sorted("Setting up .venv (once" in text for text in said) == [False, True]
    waiting = next(text for text in said if "Setting up" not in text)
    assert waiting in ("", "Waiting for another command that sets up .venv ...\n")
    assert check(project)
