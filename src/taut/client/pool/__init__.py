"""``Pool``: ready connections to one server."""
