"""Both services' code in this process, without sockets; for scripts, notebooks and tests.

Needs `folovllm[all]`. The services' modules are imported when a model is loaded, so that the names
can be imported without them.
"""
