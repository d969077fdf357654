"""The cursor: the greatest key in UTF-8 byte order, by one function for test and maximum; it never goes back."""

from datetime import date, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from feeders.cursors import Cursor

DAY = date(2026, 7, 4)

# Surrogates aren't UTF-8 and can't be in a key. U+E000 to U+FFFF sort before U+10000 in UTF-8 and after it in
# UTF-16, as JavaScript and Java compare.
TEXTS = st.text(
    st.one_of(st.sampled_from("abAB/_-.=%é"), st.characters(exclude_categories=["Cs"])),
    min_size=1,
    max_size=12,
)
KEYS = st.lists(TEXTS, min_size=1, max_size=20)


def after(keys: list[str], start: Cursor | None = None) -> Cursor:
    cursor = start or Cursor()
    return cursor.advanced([(key, DAY) for key in keys], files=len(keys), rows=0)


@given(KEYS)
@example(["\uffff", "\U00010000"])
@example(["Z", "a", "_", "é"])
def test_the_path_is_the_greatest_key_in_byte_order(keys: list[str]) -> None:
    assert after(keys).path.encode() == max(key.encode() for key in keys)


@given(KEYS)
def test_no_key_that_was_loaded_is_taken_for_new(keys: list[str]) -> None:
    cursor = after(keys)
    assert not any(cursor.is_below(key) for key in keys)


@given(KEYS, TEXTS)
@example(["\uffff"], "\U00010000")
@example(["\U00010000"], "\uffff")
def test_new_and_above_are_the_same_order(keys: list[str], key: str) -> None:
    cursor = after(keys)
    assert cursor.is_below(key) == (after([*keys, key]).path != cursor.path)


@given(st.lists(KEYS, min_size=1, max_size=6))
def test_it_never_goes_back_whatever_the_order_of_batches(batches: list[list[str]]) -> None:
    cursor = Cursor()
    for batch in batches:
        moved = after(batch, cursor)
        assert moved.path.encode() >= cursor.path.encode()
        cursor = moved
    assert cursor.path == after([key for batch in reversed(batches) for key in batch]).path
    assert cursor.files == sum(len(batch) for batch in batches)


@given(st.lists(st.integers(min_value=-500, max_value=500), min_size=1, max_size=10))
def test_the_day_is_the_youngest_and_apart_from_the_path(offsets: list[int]) -> None:
    # Two layouts of one stream don't compare: `2026_07_04_…` sorts before `year=2020/…`.
    days = [DAY + timedelta(days=offset) for offset in offsets]
    cursor = Cursor()
    for number, day in enumerate(days):
        cursor = cursor.advanced([(f"raw/{-number}", day)], files=1, rows=2)
    assert cursor.day == max(days)
    assert (cursor.files, cursor.rows) == (len(days), 2 * len(days))


def test_nothing_loaded_yet_is_below_everything() -> None:
    assert Cursor().is_below("\x01")
    assert not Cursor().is_below("")
