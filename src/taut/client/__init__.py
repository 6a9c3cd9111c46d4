"""The client: ``connect``, dialling, and the opening handshake of a connection."""
