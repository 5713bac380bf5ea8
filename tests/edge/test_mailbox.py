"""Between threads nothing is lost silently, nothing is handed out twice, and a death is told."""

import queue
import threading
import time

import pytest

from edge.mailbox import DropPolicy, Mailbox


def test_waiting_keeps_everything_in_order():
    mailbox = Mailbox(2, DropPolicy.WAIT)

    def send():
        for number in range(200):
            assert mailbox.put(number)
        mailbox.end()

    thread = threading.Thread(target=send)
    thread.start()
    received = []
    while (item := mailbox.get()) is not None:
        received.append(item)
    thread.join(2)
    assert received == list(range(200))
    assert mailbox.dropped == 0


def test_dropping_gives_the_newest_and_counts():
    mailbox = Mailbox(1, DropPolicy.DROP_OLDEST)
    for number in range(1, 11):
        mailbox.put(number)
    assert mailbox.get() == 10
    assert mailbox.dropped == 9


def test_an_item_is_handed_out_once():
    mailbox = Mailbox(1, DropPolicy.DROP_OLDEST)
    mailbox.put("a")
    assert mailbox.get() == "a"
    threading.Timer(0.1, mailbox.end).start()
    assert mailbox.get() is None


def test_the_senders_death_arrives_after_its_items():
    mailbox = Mailbox(4, DropPolicy.WAIT)
    mailbox.put(1)
    mailbox.end(RuntimeError("unplugged"))
    assert mailbox.get() == 1
    with pytest.raises(RuntimeError, match="unplugged"):
        mailbox.get()


@pytest.mark.parametrize("policy", DropPolicy)
def test_closing_frees_both_sides(policy):
    mailbox = Mailbox(1, policy)
    mailbox.put(0)
    answers = []
    sender = threading.Thread(target=lambda: answers.append([mailbox.put(1), mailbox.put(2)][-1]))
    sender.start()
    time.sleep(0.05)
    mailbox.close()
    sender.join(2)
    assert not sender.is_alive()
    assert mailbox.put(3) is False
    assert mailbox.get() is None


def test_waiting_for_a_time_only():
    mailbox = Mailbox(1, DropPolicy.WAIT)
    begun = time.monotonic()
    with pytest.raises(queue.Empty):
        mailbox.get(0.05)
    assert 0.04 < time.monotonic() - begun < 1
    mailbox.put("a")
    assert mailbox.get(0) == "a"
    mailbox.end(TimeoutError("the sender's own"))
    with pytest.raises(TimeoutError, match="the sender's own"):
        mailbox.get(1)


@pytest.mark.parametrize("change", ["an item", "the end", "closing", "something else"])
def test_waiting_without_receiving_ends_with_whatever_comes_first(change):
    mailbox, so = Mailbox(1, DropPolicy.WAIT), threading.Event()
    thread = threading.Thread(target=mailbox.wait, args=(so.is_set,))
    thread.start()
    mailbox.stir()
    thread.join(0.05)
    assert thread.is_alive(), "a stir alone is not what it waits for"
    if change == "an item":
        mailbox.put("a")
    elif change == "the end":
        mailbox.end()
    elif change == "closing":
        mailbox.close()
    else:
        so.set()
        mailbox.stir()
    thread.join(2)
    assert not thread.is_alive()
    if change == "an item":
        assert mailbox.get(0) == "a"
