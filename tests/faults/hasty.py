"""`lotus-lake run` to which an object is young for a second, and not for a minute.

What was deleted before it was read would keep a test waiting so long.
"""

from consumer import key
from consumer.cli import app


def main() -> None:
    """Runs the consumer."""
    key.YOUNG_S = 1.0
    app(["run"])


if __name__ == "__main__":
    main()
