"""Tables in the documents come from results/*.csv."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import ROOT

from icf_avs.errors import UserError
from icf_avs.score_tables import COLUMNS, SCORES
from tools.fill_tables import fill, fill_documents

TABLE = ",".join(COLUMNS) + (
    "\na,12ab,runs/a.safetensors,own,s4,true,strict,0.7014,0.8,,120,0,abc"
    "\na,12ab,runs/a.safetensors,own,s4,silence,strict,0.0301,0.02,0.0052,120,0,abc"
    "\na,12ab,runs/a.safetensors,own,s4,true,reference,0.7,0.81,,120,0,abc\n"
)
PAGE = "# Page\n<!-- results:stamps protocol=strict -->\nold\n<!-- /results -->\nend\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("results", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "results/stamps.csv").write_text(TABLE)
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "docs/more.md").write_text("no marks, but prose about `<!-- results:stamps -->`\n")
    return tmp_path


def test_the_documents_of_this_project_are_up_to_date():
    assert fill_documents(ROOT, check=True) == 0, "run `python -m tools.fill_tables`"


def test_check_finds_a_stale_table_and_report_renews_it(project, capsys):
    assert fill_documents(project, check=True) == 1
    assert "README.md is stale" in capsys.readouterr().err
    assert (project / "README.md").read_text() == PAGE
    assert fill_documents(project) == 0
    renewed = (project / "README.md").read_text()
    assert "| a | s4 | strict | 120 | 0.701 | 0.800 | - | 0.030 | 0.005 | - | - | - | - |" in renewed
    assert "reference" not in renewed and "old" not in renewed
    assert renewed.startswith("# Page\n") and renewed.endswith("<!-- /results -->\nend\n")
    assert fill_documents(project, check=True) == 0
    for text, message in (("<!-- results:stamps -->\nnever closed", "x.md"), (PAGE.replace("strict", "lax"), "no row")):
        with pytest.raises(UserError, match=message):
            fill(text, project / "results", Path("x.md"))


def test_rows_of_the_same_checkpoint_set_and_protocol_are_replaced(project):
    path = project / "results/stamps.csv"
    row = dict.fromkeys(COLUMNS, "") | {"checkpoint": "a", "digest": "12ab", "data": "own", "test_set": "ms3"}
    row |= {"audio": "true", "miou": "0.5"}
    SCORES.save(path, [row])
    SCORES.save(path, [row | {"test_set": "s4", "protocol": "strict", "miou": "0.1"}])  # the row of silence is dropped
    kept = [(r["test_set"], r["protocol"], r["miou"]) for r in SCORES.read(path)]
    assert kept == [("s4", "reference", "0.7"), ("ms3", "", "0.5"), ("s4", "strict", "0.1")]
    assert [p.name for p in path.parent.iterdir()] == ["stamps.csv"]  # no temporary file is left
    (project / "results/other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a table of scores"):
        SCORES.save(project / "results/other.csv", [row])


def test_checkpoints_of_one_name_have_separate_rows(project):
    """They differ by digest, scores of one checkpoint by data folder."""
    path, usual = project / "results/stamps.csv", SCORES.read(project / "results/stamps.csv")[0]
    for change in ({"digest": "34cd", "path": "b/a.safetensors", "miou": "0.2"}, {"data": "other", "miou": "0.3"}):
        SCORES.save(path, [usual | change])
    text = fill(PAGE, project / "results", Path("x.md"))
    for start, score in (("12ab) | s4 (own)", 0.701), ("34cd) | s4 (own)", 0.2), ("12ab) | s4 (other)", 0.3)):
        assert f"| a ({start} | strict | 120 | {score:.3f} |" in text
