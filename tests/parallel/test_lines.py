"""Framed messages: whole or not at all, nobody who posts waits, and a worker hears a cancel whatever it is at."""

import socket
import threading
import time

import pytest

from anydraft.core.messages import Cancel, Verify
from anydraft.parallel.lines import Line, Mailbox
from anydraft.parallel.wire import dumps


@pytest.fixture
def ends():
    ours, theirs = (Line(one) for one in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def order(task):
    return Verify(task, 0, 1, 0, 3, (), (1, 2))


def test_messages_arrive_whole_and_in_order(ends):
    ours, theirs = ends
    sent = [b"", b"a", bytes(1000), b"the last"]
    for data in sent:
        ours.say(data)
    assert theirs.take(wait=True) == sent
    assert theirs.take() == []
    ours.close()
    with pytest.raises(EOFError):
        theirs.take()


def test_what_has_no_room_stays_with_the_sender_and_goes_out_later(ends):
    ours, theirs = ends
    large = bytes(range(256)) * 20_000  # 5 MB, more than any socket takes by default
    assert not ours.post(large)
    assert not ours.post(b"behind it")
    found = []
    while len(found) < 2:
        found += theirs.take()
        ours.flush()
    assert found == [large, b"behind it"]
    assert ours.flush()


def test_a_cancel_is_heard_by_asking_and_ends_a_wait(ends):
    ours, theirs = ends
    mailbox = Mailbox(theirs)
    ours.post(dumps(order(7)))
    ours.post(dumps(order(8)))
    asked = mailbox.asked(mailbox.get())
    assert not asked() and not asked.wait(0.01)
    timer = threading.Timer(0.05, lambda: ours.post(dumps(Cancel(7, 0, 0))))
    timer.start()
    mark = time.perf_counter()
    assert asked.wait(30.0) and asked()
    assert time.perf_counter() - mark < 10.0
    timer.join()
    later = mailbox.get()
    assert later.task == 8 and not mailbox.asked(later)()  # only what was given out up to the cancelled task is void


def test_a_caller_that_is_gone_cancels_everything(ends):
    ours, theirs = ends
    mailbox = Mailbox(theirs)
    ours.post(dumps(order(1)))
    ours.post(dumps(order(2)))
    asked = mailbox.asked(mailbox.get())
    ours.close()
    assert asked.wait(30.0)
    assert mailbox.get() is None
