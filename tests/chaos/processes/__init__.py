"""Services as processes, the network between them, and the files that they load."""
