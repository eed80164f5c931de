"""How people and programs reach the services: Client, AsyncClient, LLM and the command line."""
