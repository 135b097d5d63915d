"""pynetdicom's upper layer service provider with a short way for P-DATA, and without polling while an association transfers.

`StreamDul` takes the place of an association's public `dul` before its threads start. Negotiation, release, abort and every
timer stay with pynetdicom's state machine; only P-DATA in state Sta6 (PS3.8 table 9-10: DT-2) goes straight from the socket's
buffer to `StoreDimse`. Meanwhile the association's own loop rests: it would look for work a thousand times a second. What is
overridden here is private to the library; a test fails loudly where that moves.
"""

from __future__ import annotations

import struct
import threading
from typing import Any

from pynetdicom.dul import DULServiceProvider

from dicom_node.dimse import StoreDimse
from dicom_node.guard import WAIT_FOR_DATA_S, GuardedSocket, GuardedStateMachine

P_DATA_TF = 0x04
QUIET_S = 0.05
"""How long one look for data may block while nothing waits to be sent."""
AWAITING_USER = ("Sta3", "Sta8")
"""Where the peer waits for our answer to its request, of an association or its release (PS3.8 table 9-10)."""
_VALUE = struct.Struct(">IBB")
_PENDING_CONNECTION = "Evt5"


class Checkpoint(threading.Event):
    """Where an association's loop waits: while pynetdicom holds it to send a request itself, and while it rests.

    Waking it must not let it go where it is held: it would take the answer that the sender of the request waits for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._is_held = False
        self.is_resting = False
        super().set()

    def clear(self) -> None:
        """Hold the loop (pynetdicom)."""
        with self._lock:
            self._is_held = True
            super().clear()

    def set(self) -> None:
        """Let the loop go (pynetdicom)."""
        with self._lock:
            self._is_held = self.is_resting = False
            super().set()

    def rest(self) -> None:
        """Nothing waits for the loop."""
        with self._lock:
            self.is_resting = True
            super().clear()

    def wake(self) -> None:
        """Something waits for the loop."""
        with self._lock:
            self.is_resting = False
            if not self._is_held:
                super().set()


class StreamDul(DULServiceProvider):
    """The upper layer of one accepted connection."""

    def __init__(self, association: Any, connection: GuardedSocket) -> None:
        super().__init__(association)
        self._run_loop_delay = 0.0  # every turn of the loop waits for something, see `_is_transport_event`
        self._checkpoint = Checkpoint()
        association._reactor_checkpoint = self._checkpoint
        self.socket = connection
        self.state_machine = GuardedStateMachine(self)
        self.artim_timer.timeout = association.acse_timeout
        self._idle_timer.timeout = association.network_timeout
        self.event_queue.put(_PENDING_CONNECTION)

    def run_reactor(self) -> None:
        """Serve the connection until it ends; then the association's loop goes on and sees it."""
        try:
            super().run_reactor()
        finally:
            self.wake_user()

    def kill_dul(self) -> None:
        """End the thread soon."""
        super().kill_dul()
        self.wake_user()

    def rest_user(self) -> None:
        """Let the association's loop rest unless something waits for it."""
        if self.to_user_queue.empty() and self.assoc.dimse.msg_queue.empty():
            self._checkpoint.rest()

    def wake_user(self) -> None:
        """Let the association's loop go on: there is something for it."""
        self._checkpoint.wake()

    def _is_transport_event(self) -> bool:
        """Take what came. In Sta6 all P-DATA that waits, one PDU after the other; anything else as pynetdicom does."""
        connection, dimse = self.socket, self.assoc.dimse
        state = self.state_machine.current_state
        if state != "Sta6" or not isinstance(connection, GuardedSocket):
            self.wake_user()
            if state in AWAITING_USER:
                self._await_user()
            if isinstance(connection, GuardedSocket):
                connection.patience_s = 0.0 if state in AWAITING_USER else WAIT_FOR_DATA_S
            return super()._is_transport_event()
        assert isinstance(dimse, StoreDimse)
        has_read = False
        while not self._kill_thread and self.to_provider_queue.empty():
            connection.patience_s = QUIET_S if self._checkpoint.is_resting else WAIT_FOR_DATA_S
            if not connection.ready:
                break
            has_read = True
            if not self._take(connection, dimse):
                self.wake_user()
                break
        if not has_read and self.idle_timer_expired():
            self.wake_user()
        return has_read

    def _await_user(self) -> None:
        """Give the association's thread a moment to say what is to be sent; woken by it."""
        waiting = self.to_provider_queue
        with waiting.not_empty:
            if not waiting.queue:
                waiting.not_empty.wait(WAIT_FOR_DATA_S)

    def _take(self, connection: GuardedSocket, dimse: StoreDimse) -> bool:
        """Take one PDU; False where the state machine has something to do now."""
        try:
            header = connection.header()
            if header is not None and header[0] != P_DATA_TF:
                self._read_pdu_data()
                return False
            body = None if header is None else connection.body(header[1])
        except OSError:  # TimeoutError among them
            body = None
        if body is None:
            self.event_queue.put("Evt17")
            return False
        return self._take_values(body, dimse)

    def _take_values(self, body: memoryview, dimse: StoreDimse) -> bool:
        """Give each presentation data value to the DIMSE provider (PS3.8 9.3.5.1); False where that ends the association."""
        position = 0
        while position < len(body):
            if len(body) - position < _VALUE.size:
                self.event_queue.put("Evt19")
                return False
            length, context_id, control = _VALUE.unpack_from(body, position)
            end = position + 4 + length
            if length < 2 or end > len(body):
                self.event_queue.put("Evt19")
                return False
            if not dimse.take(context_id, control, body[position + _VALUE.size : end]):
                return False
            position = end
        return True
