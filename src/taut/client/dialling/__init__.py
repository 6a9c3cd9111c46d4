"""From a URI and options to a connected socket: names, addresses, turns, proxies, TLS."""
