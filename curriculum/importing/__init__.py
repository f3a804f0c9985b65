"""Bring your own data: JSONL (our records or OpenAI `messages`), Parquet, plain text and Markdown manuals.

Start at `import_file`. `records` reads one JSON object, `manuals` cuts a manual into passages,
`report` is the result. To add a format: write a reader that yields (line number, examples or
reason), register it in `files`.
"""

from curriculum.importing.files import import_file as import_file
from curriculum.importing.report import ImportReport as ImportReport
