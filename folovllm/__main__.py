"""`python -m folovllm` is the command `folovllm`."""

from folovllm_client.__main__ import main

if __name__ == "__main__":
    main()
