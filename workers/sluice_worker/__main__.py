"""`python -m sluice_worker`: the worker, outside of any cluster, too."""

from sluice_worker.main import main

if __name__ == "__main__":
    main()
