"""Signals: at once where work can be thrown away, later where it cannot, and the second one always."""

from __future__ import annotations

import signal

import pytest

from workbench.interrupts import InterruptRequested, Interrupts


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
