"""RFC 6455 and RFC 7692 without I/O: bytes in, messages and bytes out.

Nothing in this package opens a socket, reads a clock, draws a random number or knows an event loop: the
time and the masking keys are arguments, and what is to be sent is taken from the session by a driver.
"""
