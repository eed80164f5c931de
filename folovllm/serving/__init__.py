"""What both services need to be good gRPC servers: lifecycle, errors, health, reflection, logs."""
