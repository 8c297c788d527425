from __future__ import annotations

import csv
import html.parser
import io
import json
import math
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ssl3d.data.errors import UsageError
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.instance_ap import InstanceScores
from ssl3d.pipeline.evaluation.report import FORMATS, Report
from ssl3d.pipeline.evaluation.report_formats import short_names
from ssl3d.pipeline.evaluation.result import EvalResult

MakeResult = Callable[..., EvalResult]
STREET = list(load_spec("semantickitti").classes)


def drawn(report: Report, width: int, color: bool = False) -> str:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=color, color_system="truecolor" if color else None
    )
    console.print(report.table(width))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_json_is_the_published_schema_in_percent(make_result: MakeResult) -> None:
    report = Report([make_result("a"), make_result("b", (0, 500, 500))], ["semantickitti", "nanmean"])
    runs = json.loads(report.json())["runs"]
    assert [(run["run"], run["protocol"]) for run in runs] == [
        ("a", "semantickitti"),
        ("b", "semantickitti"),
        ("a", "nanmean"),
        ("b", "nanmean"),
    ]
    keys = ["run", "method", "backbone", "dataset", "split", "protocol", "weights", "miou", "accuracy", "iou"]
    assert all(list(run) == keys for run in runs)
    first = runs[0]
    iou = {"car": 900 / 1900, "other-vehicle": 500 / 1100, "traffic-sign": 100 / 1500}
    assert first["iou"] == pytest.approx({name: 100 * value for name, value in iou.items()})
    assert first["miou"] == pytest.approx(100 * statistics.fmean(iou.values()))
    assert first["accuracy"] == pytest.approx(50)


def test_a_class_left_out_is_null_empty_and_a_dash(make_result: MakeResult) -> None:
    result = make_result("a", (1000, 1000, 1000, 0))
    report = Report([result], ["nanmean"])
    assert json.loads(report.json())["runs"][0]["iou"]["pole"] is None
    line = next(csv.DictReader(io.StringIO(report.csv())))
    assert (line["iou:car"], line["iou:pole"], line["miou"]) == ("100.0", "", "100.0")
    assert re.search(r"100\.0 +- *\n", drawn(report, 80))
    assert re.search(r"100\.0 +0\.0 *\n", drawn(Report([result], ["semantickitti"]), 80))


def test_csv_has_a_line_per_run_and_protocol_at_full_precision(make_result: MakeResult) -> None:
    odd = make_result('a, "b"')
    other = replace(make_result("c"), classes=("wall", "floor", "car"), dataset="scannet")
    lines = list(csv.DictReader(io.StringIO(Report([odd, other], ["semantickitti"]).csv())))
    assert [line["run"] for line in lines] == ['a, "b"', "c"]
    assert float(lines[0]["iou:car"]) == 100 * odd.scores("semantickitti").iou[0]
    assert float(lines[1]["iou:car"]) == 100 * other.scores("semantickitti").iou[2]
    assert (lines[0]["iou:wall"], lines[0]["subset"], lines[0]["checkpoint"]) == ("", "val", "last")


def test_head_and_tail_classes_apart(make_result: MakeResult) -> None:
    result = make_result("a", (900, 500, 100, 0), tail=("traffic-sign", "pole"))
    head = 100 * statistics.fmean((900 / 1000, 500 / 1100))  # no class is taken for the first, 100 for the second
    assert result.head == ("car", "other-vehicle")
    iou = [100 * value for value in result.scores("nanmean").iou]
    line = next(csv.DictReader(io.StringIO(Report([result], ["nanmean"]).csv())))
    assert float(line["head_miou"]) == pytest.approx(statistics.fmean(iou[:2])) == pytest.approx(head)
    assert float(line["tail_miou"]) == pytest.approx(statistics.fmean(iou[2:]))
    absent = make_result("b", (1000, 1000, 1000, 0), tail=("pole",))
    assert next(csv.DictReader(io.StringIO(Report([absent], ["nanmean"]).csv())))["tail_miou"] == ""
    narrow = drawn(Report([result], ["nanmean"]), 50)
    assert re.search(rf"head, mean of 2 +{head:.1f} *\n", narrow)
    assert "tail, mean of 2" in narrow


def test_the_best_of_comparable_rows_is_bold_ties_in_print_included(make_result: MakeResult) -> None:
    results = [make_result("a", (900, 500, 100)), make_result("b", (900, 600, 100)), make_result("c", (100, 500, 100))]
    row = {row.name: [cell.best for cell in row.cells[3:]] for row in Report(results, ["nanmean"]).groups[0].rows}
    # IoU in %: a 47.4 45.5 6.7, b 47.4 54.5 7.1, c 5.3 26.3 6.7
    assert row == {"a": [True, False, False], "b": [True, True, True], "c": [False, False, False]}
    equal = Report([make_result("a"), make_result("b", seed=0)], ["nanmean"])
    assert not any(cell.best for row in equal.groups[0].rows for cell in row.cells)
    assert not any(cell.best for cell in Report(results[:1], ["nanmean"]).groups[0].rows[0].cells)


def test_bold_in_every_human_format(make_result: MakeResult) -> None:
    report = Report([make_result("a"), make_result("b", (950, 500, 100))], ["nanmean"])
    value = f"{100 * 950 / 1900:.1f}"
    assert f"**{value}**" in report.markdown()
    assert f"\\textbf{{{value}}}" in report.latex()
    assert f"<b>{value}</b>" in report.html()
    assert f"\x1b[1m{value}\x1b[0m" in drawn(report, 80, color=True)


def test_rows_of_other_subsets_datasets_or_protocols_are_never_compared(make_result: MakeResult) -> None:
    report = Report(
        [make_result("a"), make_result("b", (1000, 1000, 1000), subset="train")], ["semantickitti", "nanmean"]
    )
    assert [(group.subset, group.protocol, len(group.rows)) for group in report.groups] == [
        ("val", "semantickitti", 1),
        ("train", "semantickitti", 1),
        ("val", "nanmean", 1),
        ("train", "nanmean", 1),
    ]
    assert not any(cell.best for group in report.groups for row in group.rows for cell in row.cells)


def test_seeds_are_averaged_only_where_nothing_else_differs(make_result: MakeResult) -> None:
    results = [
        make_result("a0", (900, 500, 100), seed=0),
        make_result("a1", (800, 500, 100), seed=1),
        make_result("full", (1000, 1000, 1000), split="100%", seed=2),
        make_result("short", (900, 500, 100), step=10, seed=3),
        make_result("other batch", (900, 500, 100), recipe="other", seed=4),
        make_result("a copy of a1", (800, 500, 100), seed=1),
    ]
    rows = Report(results, ["nanmean"]).groups[0].rows
    assert [row.seeds for row in rows] == [1, 1, 1, 1, 1, 1, 2]
    values = [100 * result.scores("nanmean").miou for result in results[:2]]
    mean = rows[-1].cells[0]
    assert (mean.value, mean.std) == pytest.approx((statistics.fmean(values), statistics.stdev(values)))
    assert mean.text() == f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"
    assert "mean ± std of 2 seeds" in rows[-1].name
    assert len(json.loads(Report(results, ["nanmean"]).json())["runs"]) == 6
    again = [results[0], make_result("a0 again", (800, 500, 100), seed=0)]
    assert len(Report(again, ["nanmean"]).groups[0].rows) == 2


def test_averaged_weights_are_named_and_averaged_over_seeds_only_among_themselves(make_result: MakeResult) -> None:
    both = [make_result("a", seed=seed, weights=weights) for weights in ("own", "ema") for seed in (0, 1)]
    report = Report([*both, make_result("b", split="100%", weights="ema")], ["nanmean"])
    names = [row.name for row in report.groups[0].rows]
    means = ["supervised, mean ± std of 2 seeds", "supervised (ema), mean ± std of 2 seeds"]
    assert names == ["a", "a", "a (ema)", "a (ema)", "b (ema)", *means]
    for write in (Report.markdown, Report.latex, Report.html):
        text = write(report)
        assert "a (ema)" in text and "weights: ema or own" in text
    assert "weights: ema or own" in drawn(report, 240) and "a (ema)" in drawn(report, 80)
    assert [run["weights"] for run in json.loads(report.json())["runs"]] == ["own", "own", "ema", "ema", "ema"]
    assert [run["run"] for run in json.loads(report.json())["runs"]] == ["a"] * 4 + ["b"]
    lines = list(csv.DictReader(io.StringIO(report.csv())))
    assert [line["weights"] for line in lines] == ["own", "own", "ema", "ema", "ema"]
    assert "weights" not in Report(both[:2], ["nanmean"]).groups[0].title
    assert "weights: ema," in Report(both[2:], ["nanmean"]).groups[0].title


def test_another_draw_of_the_labeled_scans_is_another_seed(make_result: MakeResult) -> None:
    draws = [make_result(f"r{i}", split=f"scan-1pct-seed{i}", seed=0) for i in range(3)]
    mean = Report(draws, ["nanmean"]).groups[0].rows[-1]
    assert (mean.seeds, mean.result.split, mean.cells[0].std) == (3, "scan-1pct", 0)
    official = [make_result("a", split="lasermix-1pct"), make_result("b", split="lasermix-10pct", seed=1)]
    assert len(Report(official, ["nanmean"]).rows) == len(Report(official, ["nanmean"]).groups[0].rows) == 2


@pytest.mark.parametrize("width", [80, 100, 240])
@pytest.mark.parametrize("count", [1, 3, 25])
def test_a_terminal_of_any_width_shows_every_class_and_names_the_protocol(
    make_result: MakeResult, width: int, count: int
) -> None:
    base = make_result(correct=(900, 500, 100))
    wide = replace(base, classes=tuple(STREET), colors=("#ff0000",) * 19, confusion=type(base.confusion)(19))
    results = [replace(wide, run=f"supervised-minkunet18-1pct-s{i}") for i in range(count)]
    text = drawn(Report(results, ["semantickitti"]), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("semantickitti") >= 1 + count
    names = short_names(STREET) if width == 240 else STREET
    assert all(re.search(rf"(^|\s){re.escape(name)}\s", text) for name in names)


def test_short_heads_are_short_and_different() -> None:
    heads = short_names(STREET)
    assert len(set(heads)) == 19
    assert max(map(len, heads)) <= 5
    assert heads[:2] == ["car", "bicle"]
    assert len(set(short_names(["abcdefgh-x", "abcdefgi-x", "a b", "a-b"]))) == 4


def test_names_are_escaped(make_result: MakeResult) -> None:
    report = Report([make_result("50%_a|b <script>*&")], ["nanmean"])
    assert r"50\%\_a|b <script>*\&" in report.latex()
    assert r"50%\_a\|b \<script>\*&" in report.markdown()
    assert "50%_a|b &lt;script&gt;*&amp;" in report.html()
    assert "<script>" not in report.html()
    assert "50%_a|b" in drawn(Report([make_result("50%_a|b [bold]x")], ["nanmean"]), 100)
    assert "[bold]x" in drawn(Report([make_result("50%_a|b [bold]x")], ["nanmean"]), 100)


def test_html_is_one_whole_page(make_result: MakeResult) -> None:
    class Checker(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.fetched: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "br"):
                self.open.append(tag)
            self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    checker = Checker()
    page = Report([make_result("a", seed=0), make_result("b", seed=1)], ["nanmean", "semantickitti"]).html()
    checker.feed(page)
    assert (checker.open, checker.fetched) == ([], [])
    assert page.count('style="background:#6496f5"') == 2


def test_latex_is_balanced_and_has_as_many_cells_as_columns(make_result: MakeResult) -> None:
    text = Report([make_result("a", seed=0), make_result("b", (1, 1, 1), seed=1)], ["nanmean"]).latex()
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 4
    assert all(line.count(" & ") == len(columns[1]) - 1 for line in lines)


def test_every_text_format_names_protocol_subset_and_checkpoint(make_result: MakeResult) -> None:
    report = Report([make_result("a"), make_result("b")], ["semantickitti", "nanmean"])
    for name, write in FORMATS.items():
        text = write(report)
        assert text.count("semantickitti") >= 2, name
        assert text.count("nanmean") >= 2, name
        assert name == "json" or ("val" in text and "last" in text), name


def test_nothing_to_report_and_unknown_protocol(make_result: MakeResult) -> None:
    with pytest.raises(UsageError, match="ssl3d train"):
        Report([], ["nanmean"])
    with pytest.raises(UsageError, match="nanmean"):
        Report([make_result()], ["nanmeen"])


def test_results_survive_the_disk_and_damage_is_not_believed(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result()
    path = tmp_path / "val-last.json"
    assert EvalResult.load(path) is None
    result.save(path)
    assert EvalResult.load(path) == result
    whole = path.read_text()
    assert '"weights": "own"' in whole
    path.write_text(whole.replace(', "weights": "own"', ""))  # as it was written before there was a choice
    assert EvalResult.load(path) == result
    for damaged in (whole[:-30], "", "[]", whole.replace('"schema": 1', '"schema": 2'), whole.replace("classes", "c")):
        path.write_text(damaged)
        assert EvalResult.load(path) is None


# ---------------------------------------------------------------- instances


def instances(*ap: float) -> InstanceScores:
    """Of the classes 0 and 2; AP50 and AP25 are larger by 0.1 and 0.2."""
    ap50, ap25 = (tuple(value + more for value in ap) for more in (0.1, 0.2))
    return InstanceScores((0, 2), ap, ap50, ap25, targets=tuple(0 if math.isnan(value) else 3 for value in ap))


def test_average_precisions_stand_in_a_group_of_their_own(make_result: MakeResult) -> None:
    results = [
        make_result("a", instances=instances(0.5, 0.3)),
        make_result("b", instances=instances(0.4, 0.4)),
        make_result("c"),
    ]
    report = Report(results, ["nanmean"])
    assert [(group.protocol, group.classes, len(group.rows)) for group in report.groups] == [
        ("nanmean", ("car", "other-vehicle", "traffic-sign"), 3),
        ("scannet-instance", ("car", "traffic-sign"), 6),
    ]
    found = {(row.name, row.metric): [cell.value for cell in row.cells] for row in report.groups[1].rows}
    assert found["a", "AP"] == pytest.approx([40, 50, 30])
    assert found["a", "AP50"] == pytest.approx([50, 60, 40])
    assert found["b", "AP25"] == pytest.approx([60, 60, 60])
    best = {(row.name, row.metric): [cell.best for cell in row.cells] for row in report.groups[1].rows}
    assert best["a", "AP"] == [False, True, False] and best["b", "AP"] == [False, False, True]
    for write in (Report.markdown, Report.latex, Report.html):
        text = write(report)
        assert "scannet-instance AP50" in text and "overlaps 0.50, 0.55 .. 0.90" in text
    for width in (60, 200):
        text = drawn(report, width)
        assert "AP25" in text and "mean" in text
    assert "AP (scannet-instance)" in drawn(Report(results[:1], ["nanmean"]), 50)


def test_machines_get_average_precisions_beside_the_classes(make_result: MakeResult) -> None:
    alone = make_result("d", (0, 0, 0), instances=instances(0.25, math.nan))
    alone = replace(alone, confusion=Confusion(3))
    report = Report(
        [make_result("a", instances=instances(0.5, 0.3)), alone, make_result("c")], ["nanmean", "semantickitti"]
    )
    runs = json.loads(report.json())["runs"]
    assert [(run["run"], run["protocol"]) for run in runs] == [
        ("a", "nanmean"), ("c", "nanmean"), ("a", "semantickitti"), ("c", "semantickitti"), ("d", "scannet-instance"),
    ]  # fmt: skip
    assert "instances" not in runs[1]
    assert runs[0]["instances"] == runs[2]["instances"]
    assert runs[0]["instances"]["ap"] == pytest.approx(40)
    assert runs[0]["instances"]["classes"]["traffic-sign"] == {
        "ap": pytest.approx(30), "ap50": pytest.approx(40), "ap25": pytest.approx(50), "targets": 3
    }  # fmt: skip
    assert (runs[4]["miou"], runs[4]["iou"], runs[4]["instances"]["ap"]) == (None, {}, 25)
    assert runs[4]["instances"]["classes"]["traffic-sign"]["ap"] is None
    lines = list(csv.DictReader(io.StringIO(report.csv())))
    assert [(line["run"], line["miou"] == "", line["ap50"] == "") for line in lines] == [
        ("a", False, False), ("c", False, True), ("a", False, False), ("c", False, True), ("d", True, False),
    ]  # fmt: skip
    assert (lines[4]["ap:car"], lines[4]["ap:traffic-sign"]) == ("25.0", "")


def test_average_precisions_are_averaged_over_seeds(make_result: MakeResult) -> None:
    results = [make_result(f"a{seed}", seed=seed, instances=instances(0.5 - 0.1 * seed, 0.3)) for seed in (0, 1)]
    means = [row for row in Report(results, ["nanmean"]).groups[1].rows if row.seeds == 2]
    assert [row.metric for row in means] == ["AP", "AP50", "AP25"]
    assert means[0].cells[1].text() == "45.0 ± 7.1"


def test_kept_results_hold_average_precisions(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result("a", instances=instances(0.5, math.nan))
    result.save(tmp_path / "r.json")
    found = EvalResult.load(tmp_path / "r.json")
    assert found is not None and found.instances is not None and result.instances is not None
    assert found.instances.to_json() == result.instances.to_json() and math.isnan(found.instances.ap[1])
    value = json.loads((tmp_path / "r.json").read_text())
    for damaged in ({"ap": [1]}, {"classes": [0]}, {"targets": None}):
        (tmp_path / "r.json").write_text(json.dumps({**value, "instances": {**value["instances"], **damaged}}))
        assert EvalResult.load(tmp_path / "r.json") is None
    del value["instances"]  # from before there were any
    (tmp_path / "r.json").write_text(json.dumps(value))
    assert EvalResult.load(tmp_path / "r.json") == make_result("a")
