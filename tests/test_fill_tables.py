"""Tables in the documents come from results/*.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from documents import ROOT

from icf_avs.errors import UserError
from icf_avs.evaluation.command import print_table
from icf_avs.score_tables import COLUMNS, SCORES
from research import natural
from tools.fill_tables import fill, fill_documents

TABLE = ",".join(COLUMNS) + (
    "\na,12ab,runs/a.safetensors,own,s4,true,strict,0.7014,0.8,,120,0,abc"
    "\na,12ab,runs/a.safetensors,own,s4,silence,strict,0.0301,0.02,0.0052,120,0,abc"
    "\na,12ab,runs/a.safetensors,own,s4,true,reference,0.7,0.81,,120,0,abc\n"
)
PAGE = "# Page\n<!-- results:stamps protocol=strict -->\nold\n<!-- /results -->\nend\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "results/stamps.csv").write_text(TABLE)
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "docs/more.md").write_text("no marks, but prose about `<!-- results:stamps -->`\n")
    return tmp_path


def filled(project: Path, text: str) -> str:
    text = text if "\n" in text else f"<!-- results:{text} -->\n<!-- /results -->"
    return fill(text, project / "results", Path("x.md"))


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
    (project / "results/speed.csv").write_text("what,ms\nframe,8.5\n")  # any other table is shown as it is
    assert filled(project, "speed").splitlines()[1:4] == ["| what | ms |", "| --- | ---: |", "| frame | 8.5 |"]


def test_seeds_of_the_natural_study_are_averaged(project):
    lines = [
        ("all", seed, "cross", audio, "29", miou, "0.5", fpr, "300", "4.4", "a box", "abc")
        for seed, miou in (("0", "0.30"), ("1", "0.40"), ("2", "0.50"))
        for audio, fpr in (("true", "0.1"), ("absent-word", f"0.0{seed}"))
    ]
    with (project / "results/natural.csv").open("w", newline="") as file:
        csv.writer(file).writerows([natural.COLUMNS, ("shipped", *lines[0][1:]), *lines])
    text, three = filled(project, "natural"), "0.400 ± 0.100"
    assert "| shipped | cross | 1 | 300 | 0.300 | - | - | - | - | - | - |" in text
    assert f"| all | cross | 3 | 300 | {three} | - | - | {three} | 0.010 ± 0.010 | - | - |" in text
    assert "shipped: a box, revision abc; all: a box, revision abc." in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none", "no .*none.csv"),
        ("<!-- results:stamps -->\nnever closed", "x.md"),
        ("stamps protocol=lax", "no row"),
        ("stamps color=red", "no column 'color'"),
    ],
)
def test_invalid_marks_are_refused(project, text, message):
    with pytest.raises(UserError, match=message):
        filled(project, text)


def test_rows_of_other_protocols_stay_apart(project):
    """Rows of other settings do not change a table of one protocol, and are lines of a table of all."""
    before, row = filled(project, PAGE), "a,12ab,runs/a.safetensors,own,{},{},{},0.5,,0.1,120,0,abc\n".format
    names = ("strict-t0.4", "reference-b1", "dataset", "dataset-2classes", "classes-argmax-padded")
    more = "".join(row("s4", audio, name) for audio in ("true", "silence") for name in names)
    (project / "results/stamps.csv").write_text(TABLE + more + row("s4-512", "true", "dataset"))
    assert filled(project, PAGE) == before
    lines = filled(project, "stamps").splitlines()
    assert len(lines) == 1 + 2 + 2 + len(names) + 1 + 1
    assert "| a | s4 | dataset | 120 | 0.500 | - | 0.100 | 0.500 | 0.100 | - | - | - | - |" in lines


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
    assert (project / "results/other.csv").read_text() == "a,b\n1,2\n"


def test_checkpoints_of_one_name_have_separate_rows(project):
    """Checkpoints of one name differ by digest, scores of one checkpoint by data folder."""
    path, usual = project / "results/stamps.csv", SCORES.read(project / "results/stamps.csv")[0]
    SCORES.save(path, [usual | {"digest": "34cd", "path": "b/a.safetensors", "miou": "0.2"}])
    SCORES.save(path, [usual | {"data": "other", "miou": "0.3"}])
    for cells in ("(12ab) | s4 (own) | strict | 120 | 0.701 |", "(34cd) | s4 (own) | strict | 120 | 0.200 |",
                  "(12ab) | s4 (other) | strict | 120 | 0.300 |"):  # fmt: skip
        assert f"| a {cells}" in filled(project, PAGE)


def test_choices_are_counted_by_the_set_they_were_judged_on(project):
    results = project / "results"
    (results / "natural.csv").write_text(",".join(natural.COLUMNS) + "\nopen,0,known" + ",1" * 9 + "\n")
    tried, line = "date,change,row,scored on,before,after,verdict,test scenes\n", "{},x,y,z,,,kept,{}\n".format
    (results / "tried.csv").write_text(
        tried + line(1, "stamps/a/s4 natural/all/known") + line(2, "") + line(3, "stamps/a/s4")
    )
    fill_documents(project)
    assert (results / "chosen.csv").read_text().splitlines()[1:] == [
        "stamps,a,s4,2", "natural,all,known,1", "ablation,all,s4,0", "ablation,all,ms3,0",
    ]  # fmt: skip
    (results / "tried.csv").write_text(tried + line(1, "stamps/a/s5"))
    with pytest.raises(UserError, match=r"tried\.csv, line 2: no scores of stamps/a/s5"):
        fill_documents(project)


def test_the_tree_in_the_readme_names_every_folder_of_the_package():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The tree")[2].partition("```\n\n")[0]
    found = {path.parent.name for path in (ROOT / "icf_avs").glob("*/__init__.py")}
    assert found and not [name for name in found if f"{name}/" not in tree]


def test_a_table_in_a_log_keeps_all_digits(capsys):
    cells = ["a-checkpoint-of-a-long-name", "avss-native", "offscreen", "reference-b1-t0.4", *["0.1234"] * 4]
    print_table("scores", [f"column {number}" for number in range(8)], 4, [cells])
    assert cells in [line.split() for line in capsys.readouterr().out.splitlines()]
