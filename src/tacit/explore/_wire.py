"""Tables on the wire: Arrow's streaming format, uncompressed, in as few batches as there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

ARROW = "application/vnd.apache.arrow.stream"


def packed(columns: Mapping[str, Any], about: object = None) -> bytes:
    """Columns of equal length as one Arrow stream.

    Args:
        columns: name -> numpy array, list or Arrow array of int8 to int32, uint8 to uint32, float32, str or bytes; the
            page's reader knows no other type.
        about: what else there is to say, as JSON in the schema's metadata under `about`.

    >>> import numpy as np
    >>> table = pa.ipc.open_stream(packed({"x": np.zeros(2, np.float32)}, {"n": 2})).read_all()
    >>> table["x"].to_pylist(), table.schema.metadata
    ([0.0, 0.0], {b'about': b'{"n":2}'})
    """
    said = json.dumps(about, allow_nan=False, separators=(",", ":"))
    table = pa.table(dict(columns)).replace_schema_metadata({"about": said})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()
