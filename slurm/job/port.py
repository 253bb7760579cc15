"""A TCP port of this machine for processes that will start in a moment, and for nobody else until then.

The kernel chooses a port that nobody uses. A connection is made to it and closed from the side that listened, which
leaves the port in the state TIME_WAIT: for a minute the kernel gives it to nobody who asks for any port or connects to
somewhere, but a process that names it and sets SO_REUSEADDR, as torch's store does, may listen there. (The method of
Yelp's ephemeral-port-reserve.)
"""

import socket


def reserve_port() -> int:
    """A port that is kept free for about a minute."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()  # the first to close is the one that is left in TIME_WAIT
        return port
