"""What a session has to send while it cannot, or has sent and not heard of: the queue, in memory or in a file."""
