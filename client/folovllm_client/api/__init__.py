"""Client and AsyncClient, and the values that they take and give. Needs gRPC and nothing else.

pydantic is imported where Python functions are used as tools.
"""
