"""
convert.py: other people's comparisons as a labels.jsonl, and a labels.jsonl as a table.

Paper: Ziegler et al. 2019, 2 (eq. 1). Of two samples it is the loss of Bradley and Terry,
which later work uses (Stiennon et al. 2020; Bai et al. 2022).
In:  a CSV; lines of JSON with "chosen" and "rejected", as Anthropic's hh-rlhf, or as
     OpenAI's summarize-from-feedback; a labels.jsonl
Out: a labels.jsonl for rlhf.py --labels, or a CSV

    python -m extras.convert harmless.jsonl --to out/pairs.jsonl
    python -m extras.convert out/pairs.jsonl --to pairs.csv

The layout is known by the file's ending and its fields. Omitted: downloads (fetch the
file by other means), and files packed with gzip.
"""

import argparse
import csv
import io
import json
import os
import re
import sys
from pathlib import Path

from reward import check_comparisons, parse_comparison, write_comparisons
from rlhf import Parser, open_closed_streams, whole_file
from text import UserError

TURN = "\n\nAssistant:"          # hh-rlhf's: behind the last one stands the response


# --- one entry; ValueError says what is wrong with it -----------------------------------

def comparison_of(entry):
    """The Comparison of a dictionary, in any of the layouts."""
    if not isinstance(entry, dict):
        raise ValueError("not a dictionary")
    if "chosen" in entry and "rejected" in entry:
        entry = pair_of_texts(entry)
    elif "summaries" in entry:
        entry = pair_of_summaries(entry)
    return parse_comparison(json.dumps(entry))


def pair_of_texts(entry):
    """{"chosen", "rejected"}: two responses to a "prompt", or two whole texts.

    Then the query is what both begin with: to their last "Assistant:", or else to the
    last space. Words with which both responses begin are lost to the query."""
    chosen, rejected = entry["chosen"], entry["rejected"]
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise ValueError("chosen and rejected must be texts")
    query = entry.get("prompt")
    if query is not None and not isinstance(query, str):
        raise ValueError("prompt must be a text")
    if query is None:
        common = os.path.commonprefix([chosen, rejected])
        if TURN in common:
            query = common[:common.rindex(TURN) + len(TURN)]
        else:
            query = common[:common.rfind(" ") + 1]
    if chosen.startswith(query) and rejected.startswith(query):
        chosen, rejected = chosen[len(query):], rejected[len(query):]
    return {"query": query.strip(), "sample0": chosen.strip(),
            "sample1": rejected.strip(), "best": 0}


def pair_of_summaries(entry):
    """{"info": {"post" or "article"}, "summaries": [{"text"}, {"text"}], "choice"}."""
    try:
        info = entry["info"]
        text = info.get("post") or info.get("article")
        first, second = [summary["text"].strip() for summary in entry["summaries"]]
        return {"query": f"{text.strip()}\n\nTL;DR:", "sample0": first,
                "sample1": second, "best": entry["choice"]}
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise ValueError(f"not a comparison of two summaries ({e})") from None


# --- files ------------------------------------------------------------------------------

def entries_of(path):
    """The dictionaries of a CSV, a JSON list, or lines of JSON."""
    text = path.read_bytes().decode("utf-8-sig")
    if path.suffix.lower() == ".csv":
        return rows_of(text)
    if text.lstrip().startswith("["):
        return json.loads(text)
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                entries.append(json.loads(line))
            except ValueError as e:
                raise UserError(f"{path}, line {number}: not JSON ({e})") from None
    return entries


def rows_of(text):
    """The rows of a CSV as dictionaries. Where a comma is the decimal mark, programs put
    semicolons between the columns, and some say so in a line before the header."""
    text = re.sub(r"^sep=.\s*\n", "", text)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(2 ** 31 - 1)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    table.fieldnames = [name.strip() for name in table.fieldnames or []]
    rows = [row for row in table if any(row.values())]       # not those that are empty
    for row in rows:
        best = str(row.get("best")).strip()
        if best.isdecimal():
            row["best"] = int(best)
    return rows


def read(path):
    """The comparisons of a file in any of the layouts. UserError names a bad entry."""
    try:
        entries = entries_of(path)
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 text ({e.reason}, byte {e.start})") from None
    except (ValueError, RecursionError, csv.Error) as e:
        raise UserError(f"{path}: neither a CSV nor JSON ({e})") from None
    comparisons = []
    for number, entry in enumerate(entries, 1):
        try:
            comparisons.append(comparison_of(entry))
        except ValueError as e:
            raise UserError(f"{path}, entry {number}: {e}") from None
    check_comparisons(path, comparisons)
    return comparisons


def write_csv(path, comparisons):
    """A table with a header: query, sample0, ..., best."""
    samples = [f"sample{k}" for k in range(len(comparisons[0].samples))]
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["query", *samples, "best"])
        for c in comparisons:
            table.writerow([c.query, *c.samples, c.best])


# --- the command line -------------------------------------------------------------------

def main(argv=None):
    """Convert; return 0, or 2 after one sentence on what the user can mend."""
    open_closed_streams()
    try:
        parser = Parser(prog="python -m extras.convert", description=__doc__,
                        allow_abbrev=False,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("file", help="a .csv, or JSON; see above")
        parser.add_argument("--to", required=True, help="the .jsonl or .csv to make")
        options = parser.parse_args(argv)
        to = Path(options.to)
        if to.suffix not in (".jsonl", ".csv"):
            raise UserError(f"{to} is neither a .jsonl nor a .csv; give another --to")
        if to.exists():
            raise UserError(f"{to} is there already; give another --to")
        comparisons = read(Path(options.file))
        to.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(to) as part:
            if to.suffix == ".csv":
                write_csv(part, comparisons)
            else:
                write_comparisons(part, comparisons)
        print(f"{len(comparisons)} comparisons in {to}")
        return 0
    except KeyboardInterrupt:
        print("\nextras.convert: stopped; nothing is half written", file=sys.stderr)
    except (UserError, OSError) as e:
        print(f"extras.convert: {e}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
