"""The server: ``serve``, the opening handshake of a connection, and the connection that a handler is given."""
