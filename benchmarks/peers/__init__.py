"""Engines that are measured, ours and others', each behind the Protocol of `peer`.

A peer runs in a process of its own and may be of another virtual environment, so nothing but its
own module may import more than the standard library and its library.
"""
