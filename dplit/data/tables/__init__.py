"""Tables: declared columns, their encoding, and `Table` for your own CSV and Parquet files."""

from dplit.data.tables.files import Range, Table

__all__ = ["Range", "Table"]
