"""Client and AsyncClient, their inputs and their outputs. Needs nothing but gRPC.

pydantic is imported where Python functions are used as tools.
"""
