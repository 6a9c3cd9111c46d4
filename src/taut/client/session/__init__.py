"""``Session``: a connection that outlives its connections."""
