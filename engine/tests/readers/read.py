"""What four readers make of a trial's folder, as JSON: read.py FOLDER."""

import json
import sys

import duckdb
import pandas
import polars
import pyarrow.compute
import pyarrow.parquet

folder = sys.argv[1]
records, batches = f"{folder}/records.parquet", f"{folder}/batches.parquet"


def by_pandas():
    requests, steps = pandas.read_parquet(records), pandas.read_parquet(batches)
    gaps = requests["tbt_ns"].explode().dropna().astype("int64")
    return len(requests), requests["tokens_out"].sum(), gaps.quantile(0.99), len(steps), (
        steps["prefill_tokens"].sum() + steps["decode_tokens"].sum())


def by_polars():
    requests, steps = polars.read_parquet(records), polars.read_parquet(batches)
    gaps = requests["tbt_ns"].explode().drop_nulls()
    return requests.height, requests["tokens_out"].sum(), gaps.quantile(0.99, "linear"), steps.height, (
        steps["prefill_tokens"].sum() + steps["decode_tokens"].sum())


def by_duckdb():
    def ask(query, *paths):
        return duckdb.sql(query.format(*(f"'{path}'" for path in paths))).fetchall()[0]

    rows, tokens = ask("select count(*), sum(tokens_out) from {}", records)
    (p99,) = ask("select quantile_cont(gap, 0.99) from (select unnest(tbt_ns) as gap from {})", records)
    steps, run = ask("select count(*), sum(prefill_tokens + decode_tokens) from {}", batches)
    return rows, tokens, p99, steps, run


def by_pyarrow():
    requests, steps = pyarrow.parquet.read_table(records), pyarrow.parquet.read_table(batches)
    gaps = pyarrow.compute.list_flatten(requests["tbt_ns"])
    p99 = pyarrow.compute.quantile(gaps, q=0.99, interpolation="linear")[0].as_py()
    run = sum(pyarrow.compute.sum(steps[name]).as_py() for name in ("prefill_tokens", "decode_tokens"))
    return requests.num_rows, pyarrow.compute.sum(requests["tokens_out"]).as_py(), p99, steps.num_rows, run


def named(reading):
    rows, tokens, p99, steps, run = reading
    return {"rows": int(rows), "tokens_out": int(tokens), "tbt_p99_ns": float(p99),
            "batches": int(steps), "batch_tokens": int(run)}


readers = {"pandas": by_pandas, "polars": by_polars, "duckdb": by_duckdb, "pyarrow": by_pyarrow}
print(json.dumps({name: named(read()) for name, read in readers.items()}))
