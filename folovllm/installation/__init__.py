"""Which packages each part needs, and the command that installs those that are missing.

Needs only the standard library, so that it can still speak where packages are missing.
"""
