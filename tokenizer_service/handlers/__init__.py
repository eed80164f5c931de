"""What each RPC does, one a file: from its message to its answer. For the servicer alone.

A handler checks the message, asks `chat`, `text` and `engines`, and builds the messages that go
back. Streams are classes, since they have a state; what is answered at once is a function.
"""
