"""What each RPC does, one a file, all of one shape; for the servicer alone.

A handler is a function of the caller's message and the `services` it works with. It returns the
answer, or yields the messages of a stream, whose closing ends the work. It checks the message
before any work in proportion to it, and raises FolovError, naming a field as the caller knows it.
"""
