"""Signals: at once where work can be thrown away, later where it cannot, and the second one always."""

from __future__ import annotations

import contextlib
import signal
import time

import matplotlib._path
import numpy as np
import pytest

from workbench.errors import StorageError
from workbench.interrupts import InterruptRequested, Interrupts, handled_by, held, interrupt_behind, raise_interrupt


def visit(interrupts, done, signal_number=None):
    with interrupts.interruptible():
        if signal_number:
            signal.raise_signal(signal_number)
        done.append("whole")


def test_an_interruptible_section_is_left_at_once():
    done = []
    with Interrupts() as interrupts, pytest.raises(InterruptRequested) as caught:
        visit(interrupts, done, signal.SIGTERM)
    assert (caught.value.signal_number, done) == (signal.SIGTERM, [])


def test_elsewhere_it_waits_for_the_next_section():
    done = []
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        done.append("committed")
        with pytest.raises(InterruptRequested):
            visit(interrupts, done)
    assert done == ["committed"]


def test_where_other_processes_wait_nothing_is_left_half_way():
    done = []
    with Interrupts(immediate=False) as interrupts:
        visit(interrupts, done, signal.SIGTERM)
        visit(interrupts, done)
    assert (done, interrupts.received) == (["whole", "whole"], signal.SIGTERM)


class SignalWithin:
    """A signal comes while a library in C++ asks for numbers: it drops what is raised there, and then has none."""

    def __init__(self, number):
        self.number = number

    def __array__(self, *_, **__):
        signal.raise_signal(self.number)
        return np.zeros((2, 2))

    def arrive(self):
        matplotlib._path.affine_transform(self, np.eye(3))


def test_a_signal_is_known_behind_an_error_that_bears_no_trace_of_it():
    with Interrupts() as interrupts:
        with pytest.raises(TypeError) as caught, interrupts.interruptible():
            SignalWithin(signal.SIGTERM).arrive()
        assert interrupt_behind(caught.value) is None
        assert interrupts.behind(caught.value).signal_number == signal.SIGTERM
        assert interrupts.behind(StorageError("no space")) is None, "told in words of its own"


class Finalised:
    """A signal comes while it is taken away, where Python swallows whatever is raised."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("finalised", [False, True])
def test_a_command_is_left_though_the_signal_came_in_a_finaliser(finalised, capfd):
    with pytest.raises(InterruptRequested) as caught, handled_by(raise_interrupt):  # noqa: PT012
        if finalised:
            Finalised()
        else:
            signal.raise_signal(signal.SIGTERM)
        time.sleep(5.0)
    assert caught.value.signal_number == signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_a_section_is_left_though_the_signal_came_in_a_finaliser():
    with Interrupts() as interrupts, pytest.raises(InterruptRequested), interrupts.interruptible():  # noqa: PT012
        Finalised()
        time.sleep(5.0)


def test_what_is_committed_is_not_left_for_a_signal_that_came_in_a_finaliser():
    done = []
    with Interrupts() as interrupts:
        with interrupts.interruptible():
            done.append("section")
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            Finalised()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        time.sleep(0.1)
        done.append("committed")
    assert (done, interrupts.received) == (["section", "committed"], signal.SIGTERM)


def test_a_signal_is_known_behind_the_error_that_it_became():
    class Attribute:
        def __set_name__(self, owner, name):
            signal.raise_signal(signal.SIGTERM)

    with handled_by(raise_interrupt), pytest.raises(BaseException) as caught:  # noqa: PT012
        type("Made", (), {"attribute": Attribute()})
        time.sleep(5.0)
    assert interrupt_behind(caught.value).signal_number == signal.SIGTERM
    assert interrupt_behind(ValueError("another")) is None


def test_signals_that_are_held_come_afterwards(in_processes):
    def run(_):
        done = []
        with contextlib.suppress(InterruptRequested), handled_by(raise_interrupt):
            with held():
                signal.raise_signal(signal.SIGTERM)
                done.append("whole")
            done.append("never")
        return done

    assert in_processes(1, run) == [["whole"]]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGINT} == set()


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_stops_the_process(in_processes):
    def twice(_):
        with Interrupts():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return "still here"

    assert in_processes(1, twice) == [-signal.SIGTERM]


def test_no_except_exception_swallows_it():
    assert not issubclass(InterruptRequested, Exception)
