"""Signals are held to the end of a block, and then do what they did before."""

import signal
import threading

import pytest

from support.experiments import signals


@pytest.fixture
def heard():
    """SIGTERM is noted instead of ending the tests."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


def test_a_signal_waits_for_the_end_of_the_block(heard):
    with signals.held() as came:
        assert came == []
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM] and heard == []
    assert heard == [signal.SIGTERM]


def test_a_second_one_does_not_wait(heard):
    with signals.held():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    assert heard == [signal.SIGTERM] * 2


def test_ctrl_c_is_a_keyboard_interrupt_after_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), signals.held():
        signal.raise_signal(signal.SIGINT)
        done.append("rest of the block")
    assert done


def test_the_handlers_of_before_are_there_again(heard):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), signals.held():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before and heard == []


def test_in_another_thread_nothing_is_held():
    found = []

    def work():
        with signals.held() as came:
            found.append(came)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]
