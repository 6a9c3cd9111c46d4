# cython: language_level=3
"""Awaitables that cost next to nothing: the ones that do not suspend, and the one that resumes its task directly.

``Waiter`` is what a task waits on.  It speaks the protocol by which asyncio's tasks recognise a future
(``_asyncio_future_blocking``), but when it is resumed from the event loop it runs the task's wake-up at once, in the
task's context, where a Future would go through ``call_soon`` and another turn of the loop.  When some task is running
already, tasks cannot nest, and it falls back to ``call_soon``.  It serves one task, once.
"""

import sys
from asyncio import CancelledError, InvalidStateError

cimport cython
from cpython.ref cimport PyObject

cdef extern from "Python.h":
    PyObject *PyDict_GetItemWithError(object mapping, object key) except? NULL
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

# Until 3.11 asyncio.current_task is written in Python, over a dict that its C part keeps; later it is the other way
# round.  This runs for every message that a handler waits for.
cdef dict running_tasks = None
cdef object current_task_function = None
if sys.version_info < (3, 12):
    from asyncio.tasks import _current_tasks as running_tasks
else:
    from asyncio import current_task as current_task_function


cdef object current_task(object loop):
    """The task that is running on the loop now, or None."""
    cdef PyObject *task
    if running_tasks is None:
        return current_task_function(loop)
    task = PyDict_GetItemWithError(running_tasks, loop)
    return None if task is NULL else <object>task


@cython.freelist(64)
cdef class Waiter:
    """A future-like object that resumes the one task which awaits it inside the call that wakes it."""

    def __cinit__(self, loop):
        self.loop = loop

    def get_loop(self):
        return self.loop

    def add_done_callback(self, callback, *, context=None):
        if self.callback is not None:
            raise RuntimeError("a Waiter serves one task")
        self.callback = callback
        self.context = context
        if self.woken or self.cancelled_:
            self._call_soon()

    def remove_done_callback(self, callback):
        if self.callback is None or self.callback != callback:
            return 0
        self.callback = None
        return 1

    def done(self):
        return self.woken or self.cancelled_

    def cancelled(self):
        return self.cancelled_

    def cancel(self, msg=None):
        if self.woken or self.cancelled_:
            return False
        self.cancelled_ = True
        self.cancel_message = msg
        self._call_soon()
        return True

    def result(self):
        if self.cancelled_:
            raise CancelledError() if self.cancel_message is None else CancelledError(self.cancel_message)
        if not self.woken:
            raise InvalidStateError("the result is not there yet")

    def exception(self):
        self.result()

    def _call_soon(self):
        callback = self.callback
        if callback is not None:
            self.owner, self.callback = callback, None
            self.loop.call_soon(callback, self, context=self.context)

    cdef bint enter(self) except -1:
        """Enter the task's context, if the task can be resumed right here; then call ``resume``."""
        if self.callback is None or self.context is None or current_task(self.loop) is not None:
            return False
        try:
            PyContext_Enter(self.context)
        except RuntimeError:
            return False  # the caller runs in this very context
        return True

    cdef int resume(self) except -1:
        """Resume the task here and now; only after ``enter``."""
        cdef object callback = self.callback, context = self.context
        self.woken = True
        self.callback = None
        try:
            callback(self)
        finally:
            PyContext_Exit(context)
        return 0

    cdef int schedule(self) except -1:
        """Resume the task in the next turn of the loop."""
        self.woken = True
        self._call_soon()
        return 0

    cdef object task(self):
        """The task that waits, or was resumed, here; None if that is not a task."""
        return getattr(self.owner if self.callback is None else self.callback, "__self__", None)

    cdef bint serves_current_task(self) except -1:
        """Whether the task running now is the one that waits, or was resumed, here."""
        cdef object task = self.task()
        return task is not None and task is current_task(self.loop)

    cdef bint given_up(self) except -1:
        """Whether no task will take what it was resumed for: none ever waited, or it was cancelled meanwhile."""
        cdef object task = self.task()
        return self.cancelled_ or task is None or (hasattr(task, "cancelling") and task.cancelling() > 0)


cdef class Step:
    """What makes an awaitable also a coroutine object, so that ``create_task`` and ``gather`` accept it."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise NotImplementedError

    def throw(self, typ, val=None, tb=None):
        raise typ if val is None else val

    def close(self):
        pass


cdef class Done(Step):
    """Already done: ``await`` goes on without a pause."""

    def __await__(self):
        return self

    def __next__(self):
        return None

    def send(self, value):
        raise StopIteration


cdef class YieldOnce(Step):
    """Lets the event loop turn once."""

    def __await__(self):
        return self

    def __next__(self):
        return None

    def send(self, value):
        if self.yielded:
            raise StopIteration
        self.yielded = True


cdef PySendResult done_step(PyObject *self, PyObject *value, PyObject **result) except PYGEN_ERROR:
    Py_INCREF(<PyObject *>None)
    result[0] = <PyObject *>None
    return PYGEN_RETURN


cdef PyObject *done_next(PyObject *self) noexcept:
    return NULL


cdef PySendResult yield_step(PyObject *self, PyObject *value, PyObject **result) except PYGEN_ERROR:
    cdef bint yielded = (<YieldOnce>self).yielded
    (<YieldOnce>self).yielded = True
    Py_INCREF(<PyObject *>None)
    result[0] = <PyObject *>None
    return PYGEN_RETURN if yielded else PYGEN_NEXT


cdef PyObject *yield_next(PyObject *self) noexcept:
    return taut_next_from_step(yield_step, self)


taut_install_slots(Done, done_step, done_next)
taut_install_slots(YieldOnce, yield_step, yield_next)
DONE = Done()
