"""What Client and AsyncClient do differently to call a server, and what a failed call means."""
