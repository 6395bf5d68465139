"""`python -m sluice_worker`: the same as `sluice-worker`."""

from sluice_worker.main import main

if __name__ == "__main__":
    main()
