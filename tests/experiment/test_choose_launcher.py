"""A launcher is chosen by the command line or by the user's own machine, and one that there is not is one line."""

from __future__ import annotations

import pytest

from workbench.errors import DefinitionError
from workbench.experiment.running.launchers.choose import choose_launcher


def test_a_launcher_that_there_is_not_is_refused_before_anything_is_made(command, lab):
    done = command("run", "start", "--launcher", "cloud")
    assert (done.returncode, done.stderr) == (2, "command line: LAUNCHER: found 'cloud', allowed local\n")
    assert not (lab / "runs").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("launcher: cloud", "launcher: found 'cloud', allowed local"),
        ("laucher: local", "found 'laucher', allowed launcher: NAME and nothing else"),
        ("- local", "found 'no mapping', allowed launcher: NAME"),
        ("launcher: [", "cannot be read"),
        (None, "is not there, allowed a file"),
    ],
)
def test_a_file_of_the_machine_that_names_none_is_one_line(tmp_path, monkeypatch, text, told):
    path = tmp_path / "machine.yaml"
    monkeypatch.setenv("WORKBENCH_MACHINE", str(path))
    if text is not None:
        path.write_text(text)
    with pytest.raises(DefinitionError, match=r"machine\.yaml") as error:
        choose_launcher(None, 1)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert choose_launcher("local", 1).has_room()
    path.write_text("launcher: local")
    assert choose_launcher(None, 1).running == frozenset()
