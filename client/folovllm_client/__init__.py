"""How people and programs reach the services.

`api` is Client and AsyncClient, `cli` the command `folovllm`, `launch` the services as processes,
`llm` both services' code in this process. `folovllm` has the public names.
"""
