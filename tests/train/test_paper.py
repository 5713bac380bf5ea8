"""The papers' tables: numbers as printed, configurations that can be built, corpora that are asked for by name."""

import inspect
from dataclasses import fields

import pytest

torch = pytest.importorskip("torch")

from train.datasets import CORPORA, WORDS
from train.models import FAMILIES
from train.paper import ROWS, PaperError, listing, plan, rows_of
from train.protocols import parse_protocol
from train.recipe import Recipe

KEYS = ("li2019", "saurav2020", "zhang2019", "pan2019", "xie2019")


def numbers(key, corpus, table=None):
    return {
        row.name: row.accuracy
        for row in rows_of(key)
        if row.corpora[-1] == corpus and (table is None or row.table == table)
    }


@pytest.mark.parametrize(
    ("key", "corpus", "table", "expected"),
    [
        ("li2019", "ckplus", "Section 4.2", [94.50, 95.47, 94.71]),
        ("li2019", "ckplus", "Table 3", [97.41]),
        ("li2019", "jaffe", None, [68.85, 39.41]),
        ("li2019", "mmi", None, [59.20, 51.60]),
        ("li2019", "nimstim", None, [83.30, 53.23]),
        ("saurav2020", "ckplus", None, [95.10]),
        ("saurav2020", "savee", None, [98.83]),
        ("saurav2020", "afew", None, [83.12, 43.86]),
        ("zhang2019", "baum1s", "Table 1", [48.15, 52.73, 55.85]),
        ("zhang2019", "rml", "Table 2", [64.58, 50.31, 71.94, 73.73]),
        ("zhang2019", "mmi", "Table 2", [60.45, 48.66, 68.35, 71.43]),
        ("pan2019", "baum1s", "Table 3", [46.51, 42.68, 41.09]),
        ("pan2019", "enterface", "Table 1", [43.72, 42.97]),
        ("pan2019", "enterface", "Table 2", [43.72, 42.11]),
        ("xie2019", "sfew", "Table 3", [39.61, 39.20, 40.75]),
        ("xie2019", "jaffe", "Table 4", [96.37, 97.55, 98.23, 98.14, 99.22]),
        ("xie2019", "tfeid", "Table 9", [93.65, 93.36]),
        ("xie2019", "baum2i", "Table 10", [67.92, 61.52]),
        ("xie2019", "fer2013", "Table 10", [65.31, 66.20]),
        ("xie2019", "ckplus", "Table 6", [95.88]),
        ("xie2019", "jaffe", "Table 8", [99.32]),
        ("xie2019", "ckplus", "Table 11", [52.75]),
        ("xie2019", "sfew", "Table 11", [24.44]),
    ],
)
def test_numbers_as_printed(key, corpus, table, expected):
    found = [row.accuracy for row in rows_of(key) if row.corpora[-1] == corpus and table in (None, row.table)]
    assert found == expected


def test_lengths_of_pan2019():
    rows = [row for row in rows_of("pan2019") if row.table == "Figure 9" and row.source.corpus == "baum1s"]
    assert [row.config["length"] for row in rows] == list(range(2, 21))
    assert [row.config["length"] for row in rows if row.accuracy is not None] == [16]


def test_every_paper_and_only_families():
    assert tuple(dict.fromkeys(row.key for row in ROWS)) == KEYS
    assert {row.key for row in ROWS} == {family.key for family in FAMILIES.values()}
    assert len({(row.key, row.slug) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.key}-{row.slug}")
def test_a_row_means_something_to_the_rest(row):
    protocol = parse_protocol(row.protocol)
    assert (protocol.kind == "all") <= (row.test_on is not None)
    for source in filter(None, (row.source, row.test_on)):
        accepted = inspect.signature(CORPORA[source.corpus]).parameters
        assert set(source.options) <= set(accepted)
        assert set(source.labels) <= set(WORDS)
        assert len(set(source.labels)) == len(source.labels)
    if row.test_on:
        assert set(row.test_on.labels) == set(row.source.labels)
    assert set(row.recipe) <= {entry.name for entry in fields(Recipe)}
    assert row.accuracy is None or 20 < row.accuracy < 100
    config = row.make_config()
    assert config.classes == len(row.source.labels)
    # On no device: the shapes alone, at the paper's own size.
    with torch.device("meta"):
        network = row.family.build(config)
    assert sum(parameter.numel() for parameter in network.parameters()) > 1000
    assert row.family.inputs(config)


def test_rows_of_one_table_differ_in_what_is_built():
    """A table's rows on one corpus are ablations: no two have one configuration."""
    for row in ROWS:
        same = [
            other
            for other in ROWS
            if (other.key, other.table, other.corpora, other.source, other.protocol)
            == (row.key, row.table, row.corpora, row.source, row.protocol)
        ]
        configs = [(other.make_config(), other.variation) for other in same]
        assert len(set(configs)) == len(configs), row.describe()


def test_corpora_are_parsed_as_the_paper_used_them():
    first = rows_of("li2019")[0].source
    assert dict(first.options) == {"peak": 3, "contempt": False}
    saurav = rows_of("saurav2020")[0]
    assert saurav.source.options["peak"] is None
    assert "contempt" in saurav.source.labels
    assert saurav.classes == 7
    cross = next(row for row in rows_of("xie2019") if row.table == "Table 11")
    assert cross.source.options["neutral"] is True
    assert cross.classes == 7
    assert {row.protocol for row in rows_of("zhang2019")} == {"losgo:5", "loso"}
    assert next(row for row in rows_of("xie2019") if row.name == "DAM-CNN-g").variation == "gender"


def test_plan_runs_what_is_there(tmp_path):
    (tmp_path / "ck").mkdir()
    runnable, missing = plan("li2019", {"ckplus": tmp_path / "ck", "jaffe": tmp_path / "absent"})
    assert [row.name for row in runnable] == ["baseline", "plain7", "plain8", "C-SPP"]
    assert missing == ("jaffe", "mmi", "nimstim")
    (tmp_path / "absent").mkdir()
    runnable, missing = plan("li2019", {"ckplus": tmp_path / "ck", "jaffe": tmp_path / "absent"})
    assert [row.corpora for row in runnable][-2:] == [("jaffe",), ("ckplus", "jaffe")]
    assert missing == ("mmi", "nimstim")


def test_listing_says_what_is_missing_and_where_it_was_sought(tmp_path):
    (tmp_path / "rml").mkdir()
    text = listing("zhang2019", {"rml": tmp_path / "rml", "mmi": tmp_path / "nowhere"})
    assert "Zhang et al. 2019: 7 of 21 rows can be run" in text
    assert "missing corpora: baum1s, mmi" in text
    assert f"mmi ({tmp_path / 'nowhere'} does not exist): 7 rows wait for it" in text
    assert "  Table 2, score-level fusion: rml, loso, 71.94" in text
    assert "Figure 9, L = 2: baum1s, losgo:5, no number printed" in listing("pan2019", {})
    assert "missing" not in listing("zhang2019", dict.fromkeys(("rml", "mmi", "baum1s"), tmp_path))


def test_references_name_the_table():
    reference = rows_of("li2019")[3].reference
    assert (reference.accuracy, reference.source) == (97.41, "Li et al. 2019, Table 3")


def test_unknown_papers_and_corpora(tmp_path):
    with pytest.raises(PaperError, match="unknown paper 'li2020'; expected one of li2019"):
        plan("li2020", {})
    with pytest.raises(PaperError, match="unknown corpus ck, expected|unknown corpus ck; expected some of afew"):
        plan("li2019", {"ck": tmp_path})
