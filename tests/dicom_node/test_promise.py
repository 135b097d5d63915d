"""What one thread tells another: once, to whoever asks and however often."""

from __future__ import annotations

import threading

import pytest

from dicom_node.promise import Promise

pytestmark = pytest.mark.feature("R6")


def test_result_told_by_another_thread_is_read_as_often_as_asked_for() -> None:
    promise: Promise[int] = Promise()
    threading.Thread(target=promise.tell, args=(7,)).start()

    assert [promise.result(20), promise.result(20), promise.result()] == [7, 7, 7]


def test_failure_is_raised_as_often_as_asked_for() -> None:
    promise: Promise[int] = Promise()
    promise.fail(KeyError("a bug"))

    for _ in range(2):
        with pytest.raises(KeyError):
            promise.result(20)


def test_promise_that_nobody_keeps_ends_the_waiting_in_time() -> None:
    promise: Promise[int] = Promise()

    with pytest.raises(TimeoutError):
        promise.result(0.01)
