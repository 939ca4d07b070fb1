"""``python -m rlhf_jax``, the same as ``rlhf``: for where no scripts are installed, or a certain Python is meant."""

from rlhf_jax.cli import main

if __name__ == "__main__":
    main()
