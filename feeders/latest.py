"""Models that hold of each key the newest row: known by their SQL, so that nobody has to claim it.

Of such a model the row that it has and the rows that came decide which one is the newest now; the rest of the input
is read only for keys of which rows went, or of which two rows are equally new.
"""

from itertools import pairwise

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

# fmt: off
NOT_OF_THE_ROW = frozenset({
    "age", "ago", "catalog", "current_catalog", "current_connection_id", "current_database",
    "current_date", "current_localtime", "current_localtimestamp", "current_query", "current_query_id",
    "current_role", "current_schema", "current_schemas", "current_setting", "current_time",
    "current_timestamp", "current_transaction_id", "current_user", "currval", "error", "explode",
    "flatten_unnest", "gen_random_uuid", "generate_series", "generate_subscripts", "get_current_time",
    "get_current_timestamp", "getvariable", "in_search_path", "json_each", "json_tree", "last_value",
    "localtime", "localtimestamp", "nextval", "now", "pg_conf_load_time", "pg_postmaster_start_time",
    "pg_sleep", "posexplode", "random", "range", "regexp_split_to_table", "session_user", "setseed",
    "sleep_ms", "stats", "statement_timestamp", "today", "transaction_timestamp", "txid_current",
    "unnest", "user", "uuid", "uuidv4", "uuidv7", "write_log",
})
# fmt: on
"""Functions that make rows of a row, or depend on more than the row: a SELECT that calls one is of another shape."""
_WITHOUT_PARENTHESES = frozenset(
    {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
)
_SELECT_PARTS = frozenset({"expressions", "from_", "where"})


def newest_by(query: exp.Query, *, key: str, mapped: str) -> str | None:
    """Returns the column by which a model's SELECT takes the newest row of each key; None if it is of another shape.

    The shape: `QUALIFY row_number() OVER (PARTITION BY key ORDER BY column DESC, …) = 1` over one table, or over one
    WITH that takes rows of one table, each for itself: no join, aggregate, subquery or other window. What follows the
    column in the order decides between equally new rows only. Both columns are in the result as they are.

    Args:
        query: the whole SELECT.
        key: the model's key.
        mapped: the column of its table that holds the key.
    """
    if not isinstance(query, exp.Select) or not _has_only(query, _SELECT_PARTS | {"qualify", "with_"}):
        return None
    if _called(query) & NOT_OF_THE_ROW:
        return None
    ctes = query.ctes
    selects = [query, *(each.this for each in ctes)]
    inner = selects[-1]
    if len(ctes) > 1 or len(list(query.find_all(exp.Query))) != len(selects):
        return None
    if not isinstance(inner, exp.Select) or not _reads_one_table(inner):
        return None
    if ctes and (not _has_only(inner, _SELECT_PARTS) or not _reads(query, ctes[0])):
        return None
    if any(not _is_plain(select) for select in (query, inner)):
        return None
    column = _order_of(query, key)
    if column is None or not (_carries(query, key, key) and _carries(query, column, column)):
        return None
    # A bare column beside it leaves no room for an aggregate, whatever its name is.
    is_its_key = _carries(inner, mapped, key) if ctes else key.lower() == mapped.lower()
    return column if is_its_key else None


def _called(query: exp.Select) -> set[str]:
    """The names of all functions in its text, and of whatever else a parenthesis follows."""
    tokens = DuckDB().tokenize(query.sql(dialect="duckdb"))
    names = {one.text.lower() for one, then in pairwise(tokens) if then.text == "("}
    return names | _WITHOUT_PARENTHESES.intersection(token.text.lower() for token in tokens)


def _has_only(select: exp.Select, parts: frozenset[str]) -> bool:
    return _parts(select) <= parts


def _reads(select: exp.Select, cte: exp.CTE) -> bool:
    """Whether it reads the WITH as it is, under its own columns' names."""
    table = select.args["from_"].this
    return (
        isinstance(table, exp.Table)
        and {"this"} <= _parts(table) <= {"this", "alias"}
        and table.name == cte.alias
        and not _renames(table)
        and not _renames(cte)
    )


def _parts(expression: exp.Expr) -> set[str]:
    return {name for name, value in expression.args.items() if value}


def _renames(source: exp.Expr) -> bool:
    alias = source.args.get("alias")
    return isinstance(alias, exp.TableAlias) and bool(alias.args.get("columns"))


def _reads_one_table(select: exp.Select) -> bool:
    """Whether it reads a table with a schema, all of it and as it is."""
    source = select.args.get("from_")
    table = source.this if isinstance(source, exp.From) else None
    if not isinstance(table, exp.Table) or _renames(table):
        return False
    return {"this", "db"} <= _parts(table) <= {"this", "db", "alias"}


def _is_plain(select: exp.Select) -> bool:
    """Whether its columns are named, or all of `*`: not of a table, a pattern or COLUMNS(…)."""
    stars = select.find_all(exp.Star, exp.Columns)
    return all(
        any(star is each for each in select.expressions) for star in stars if star.parent_select is select
    )


def _order_of(query: exp.Select, key: str) -> str | None:
    """The first column of the one window's order, if the window is the expected one."""
    qualify = query.args.get("qualify")
    test = qualify.this if isinstance(qualify, exp.Qualify) else None
    if not isinstance(test, exp.EQ) or len(list(query.find_all(exp.Window))) != 1:
        return None
    window, one = test.this, test.expression
    if not (isinstance(window, exp.Window) and isinstance(window.this, exp.RowNumber)) or _parts(window.this):
        return None
    if not (isinstance(one, exp.Literal) and one.this == "1" and not one.is_string) or window.args.get(
        "spec"
    ):
        return None
    order = window.args.get("order")
    if [_name(each) for each in _listed(window, "partition_by")] != [key.lower()] or not isinstance(
        order, exp.Order
    ):
        return None
    first = order.expressions[0]
    return _name(first.this) if isinstance(first, exp.Ordered) and first.args.get("desc") is True else None


def _carries(select: exp.Select, column: str, name: str) -> bool:
    """Whether the SELECT gives a column as it is, under this name, and nothing else under it."""
    column, name = column.lower(), name.lower()
    found = [each for each in select.expressions if _gives(each, name)]
    if len(found) != 1:
        return False
    [one] = found
    match one:
        case exp.Star():
            return column == name
        case exp.Alias():
            return _name(one.this) == column
        case _:
            return _name(one) == column


def _gives(expression: exp.Expr, name: str) -> bool:
    """Whether one expression of a SELECT gives a column of this name; a star gives all that it does not leave out."""
    if not isinstance(expression, exp.Star):
        return expression.alias_or_name.lower() == name
    parts = [part for each in ("except_", "replace", "rename") for part in _listed(expression, each)]
    names = {identifier.name.lower() for part in parts for identifier in part.find_all(exp.Identifier)}
    return name not in names


def _listed(expression: exp.Expr, part: str) -> list[exp.Expr]:
    found: list[exp.Expr] | None = expression.args.get(part)
    return found or []


def _name(expression: exp.Expr) -> str | None:
    """The name of a column that stands alone, without table."""
    if (
        isinstance(expression, exp.Column)
        and not expression.table
        and isinstance(expression.this, exp.Identifier)
    ):
        return expression.name.lower()
    return None
