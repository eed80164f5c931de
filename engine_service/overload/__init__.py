"""What an engine does when more is asked of it than it can serve.

`admission` decides which requests it takes on, by what they cost and how fast it works; one that it
refuses is given a turn, a time from which on it is taken before those that come first. Nothing here
reads a clock: every method is told the time, in seconds of any monotonic clock. AsyncEngine asks.
"""
