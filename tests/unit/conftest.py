"""What holds for all unit tests."""

import gc


def pytest_collection_finish():
    """Keep modules and collected tests out of every later garbage collection: all of them stay."""
    gc.collect()
    gc.freeze()
