"""How bytes travel: sockets of our own, any asyncio transport, and pairs in memory."""
