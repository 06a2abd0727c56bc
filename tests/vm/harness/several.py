"""Things that are done beside each other."""

from concurrent.futures import ThreadPoolExecutor


def several(do, each, at_once):
    """What comes of it for each, in their order, so many at a time. When one fails, those that have not
    begun by then never do."""
    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(do, each))
