"""`folovllm doctor`: what is installed, what computes, what is missing, and where caches lie."""
