# cython: language_level=3
from cpython.ref cimport PyObject

cdef extern from *:
    """
    typedef PySendResult (*taut_send_slot)(PyObject *, PyObject *, PyObject **);
    typedef PyObject *(*taut_next_slot)(PyObject *);

    /* A coroutine that awaits an object asks its am_send slot (CPython 3.10 and 3.11) or its tp_iternext slot (3.12 and
       later) for the next step.  Filling both directly spares the method call and the StopIteration object. */
    static inline void taut_install_slots(PyObject *type, taut_send_slot step, taut_next_slot next) {
        ((PyTypeObject *)type)->tp_as_async->am_send = step;
        ((PyTypeObject *)type)->tp_iternext = next;
        PyType_Modified((PyTypeObject *)type);
    }

    static inline PyObject *taut_next_from_step(taut_send_slot step, PyObject *self) {
        PyObject *result = NULL;
        switch (step(self, Py_None, &result)) {
        case PYGEN_NEXT:
            return result;
        case PYGEN_RETURN:
            if (result != Py_None) {
                /* PyErr_SetObject would take a tuple for the arguments of the exception, an exception for itself. */
                if (PyTuple_Check(result) || PyExceptionInstance_Check(result)) {
                    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
                    if (stop != NULL) { PyErr_SetObject(PyExc_StopIteration, stop); Py_DECREF(stop); }
                } else {
                    PyErr_SetObject(PyExc_StopIteration, result);
                }
            }
            Py_DECREF(result);
            return NULL;
        default:
            return NULL;
        }
    }
    """
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    ctypedef PySendResult (*taut_send_slot)(PyObject *, PyObject *, PyObject **) except PYGEN_ERROR
    ctypedef PyObject *(*taut_next_slot)(PyObject *) noexcept
    void taut_install_slots(object type, taut_send_slot step, taut_next_slot next)
    PyObject *taut_next_from_step(taut_send_slot step, PyObject *self) noexcept
    void Py_INCREF(PyObject *)
    void Py_DECREF(PyObject *)

cdef class Waiter:
    cdef public bint _asyncio_future_blocking
    cdef object loop
    cdef object callback
    cdef object context
    cdef object owner
    cdef object cancel_message
    cdef bint cancelled_
    cdef bint woken

    cdef bint enter(self) except -1
    cdef int resume(self) except -1
    cdef int schedule(self) except -1
    cdef object task(self)
    cdef bint serves_current_task(self) except -1
    cdef bint given_up(self) except -1

cdef class Step:
    pass

cdef class Done(Step):
    pass

cdef class YieldOnce(Step):
    cdef bint yielded

cdef Done DONE

cdef object current_task(object loop)
