"""How fast one caller of the API may ask: a bucket of tokens each, in the memory of the process."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tutelage.errors import StudioError

MOST_BUCKETS = 10_000


@dataclass
class Bucket:
    """What a caller has left."""

    left: float
    at: float


class Pace:
    """Lets each caller make `rate` requests a second, and `burst` at once after a quiet time. Safe between threads.

    Every process of a studio counts for itself: with four, a caller may reach four times the rate.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()

    def take(self, who: str) -> None:
        """Count one request. Raises StudioError 429, with the seconds to wait, when the caller has none left."""
        now = self._clock()
        with self._lock:
            if len(self._buckets) >= MOST_BUCKETS:
                self._buckets = {key: b for key, b in self._buckets.items() if self._left(b, now) < self._burst}
            bucket = self._buckets.setdefault(who, Bucket(self._burst, now))
            bucket.left, bucket.at = self._left(bucket, now), now
            if bucket.left < 1:
                wait = (1 - bucket.left) / self._rate
                raise StudioError(f"Too many requests: at most {self._rate:g} a second", 429, retry_after=wait)
            bucket.left -= 1

    def _left(self, bucket: Bucket, now: float) -> float:
        return min(self._burst, bucket.left + (now - bucket.at) * self._rate)
