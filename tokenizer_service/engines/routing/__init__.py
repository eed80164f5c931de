"""Which of the engines a request goes to."""
