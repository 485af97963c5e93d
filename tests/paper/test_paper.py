"""The paper says what the committed values say: no digit typed by hand, no figure of another run, no loose citation."""

import hashlib
import json
import math
import os
import pkgutil
import re
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path

import pytest
import typst
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"Apache 2.0", "CIE 1976", "DPM-Solver++", "DPM-Solver++(2M)", "Flowers-102"}  # with digits that count nothing
IN_EQUATIONS = {"0", "1", "2"}  # indices, squares, and the noise that is left: no result is written with these alone
WAYS = {  # what a number is made of values by
    "value": lambda x: x,
    "mean": lambda *xs: sum(xs) / len(xs),
    "half-range": lambda *xs: (max(xs) - min(xs)) / 2,
    "sum": lambda *xs: sum(xs),
    "smallest": min,
    "largest": max,
    "difference": lambda x, y: x - y,
    "ratio": lambda x, y: x / y,
}


class Paper:
    """The paper in a folder, compiled as ``make paper`` does; ``traces("value")`` are what its numbers leave."""

    def __init__(self, root):
        inputs = {"check": "digits"}
        main = str(root / "paper" / "main.typ")
        self.compiler = typst.Compiler(main, root=str(root), ignore_system_fonts=True, sys_inputs=inputs)

    def compile(self):
        return self.compiler.compile_with_warnings(timestamp=0)

    def traces(self, label):
        return json.loads(self.compiler.query(f"<{label}>", field="value"))

    def elements(self, selector, field):
        return json.loads(self.compiler.query(selector, field=field))

    def typed(self):
        """Digits that came from a keyboard: a result in an equation is one as well."""
        found = self.traces("typed")
        return [one["typed"] for one in found if one["place"] != "EQ" or one["typed"] not in IN_EQUATIONS]


@pytest.fixture(scope="module")
def paper():
    return Paper(ROOT)


@pytest.fixture
def copy(tmp_path):
    """A copy of the paper and of what it reads, to be spoiled; its figures are single pixels."""
    shutil.copytree(ROOT / "paper", tmp_path / "paper", ignore=shutil.ignore_patterns("*.pdf"))
    for path in (ROOT / "figures").rglob("*"):
        target = tmp_path / path.relative_to(ROOT)
        if path.suffix in (".json", ".png"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target) if path.suffix == ".json" else Image.new("RGB", (1, 1)).save(target)
    return tmp_path


@cache
def values_file(name):
    return json.loads((ROOT / "figures" / name).read_text())


def follow(found, keys):
    for key in keys:
        found = found[int(key) if isinstance(found, list) else key]
    return found


def spoil(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# ---------------------------------------------------------------------------------------------------- the document


@pytest.mark.slow
def test_it_compiles_in_ten_seconds_without_a_warning(paper):
    begin = time.process_time()  # of all threads; other processes do not count
    pdf, warnings = Paper(ROOT).compile()
    assert time.process_time() - begin < 10
    assert Paper(ROOT).compile()[0] == pdf
    assert [str(warning.message) for warning in warnings] == []
    assert pdf.startswith(b"%PDF")
    (pages,) = paper.traces("pages")
    assert 6 <= pages <= 10


def test_it_needs_no_package():
    assert not any("@preview" in path.read_text() for path in (ROOT / "paper").glob("*.typ"))


# --------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.slow
def test_every_digit_comes_from_a_value_a_setting_a_fact_or_a_name(paper):
    assert paper.typed() == []


def test_only_names_are_passed_off_as_names(paper):
    names = {one["text"] for one in paper.traces("name")}
    assert names - NAMES == set()


def test_a_digit_typed_by_hand_is_found(copy):
    words = [
        "an IoU of 0.81",
        "by 3 %",
        "$p = 0.03$",
        "#table[12]",
        "4×",
        "`0.5`",
        '#at("benchmarks/steps_tissue.json", "n_images")',
    ]
    path = copy / "paper" / "introduction.typ"
    path.write_text("\n\n".join([path.read_text(), *words]))
    assert Paper(copy).typed() == ["0.81", "3", "0.03", "12", "4×", "0.5", "96"]


def test_no_section_marks_digits_as_counted_by_a_machine():
    sources = {path.stem: path.read_text() for path in (ROOT / "paper").glob("*.typ")}
    assert {name for name, text in sources.items() if re.search(r"marked\(|region:|written\(", text)} == {
        "values",
        "style",
    }


def test_every_number_is_that_of_the_files(paper):
    traces = paper.traces("value")
    assert len(traces) > 200
    for one in traces:
        numbers = []
        for name, keys in one["of"]:
            whole = values_file(name)
            numbers.append(follow(whole.get("values", whole.get("results")), keys))
        wanted = WAYS[one["how"]](*numbers) * one["scale"]
        shown = float(one["shown"].replace("−", "-").replace(",", ""))
        assert math.isclose(shown, wanted, abs_tol=0.5001 * 10 ** -one["digits"], rel_tol=1e-9), one
        assert len(one["shown"].partition(".")[2]) == one["digits"]


def test_every_setting_is_that_of_the_run(paper):
    for one in paper.traces("setting"):
        found = follow(values_file(one["file"])["run"]["config"], one["setting"])
        shown = one["shown"].replace(",", "")
        assert shown == found if isinstance(found, str) else float(shown) == found


def test_facts_are_those_of_the_code_and_all_are_used(paper):
    facts = json.loads((ROOT / "paper" / "facts.json").read_text())
    assert set(paper.traces("fact")) == set(facts)
    for key, fact in facts.items():
        source = fact["source"]
        if source == "data/README.md":
            assert str(fact["value"]) in (ROOT / source).read_text()
        elif call := re.search(r"\b(?:sedm|tests)(?:\.\w+)+", source):
            found = pkgutil.resolve_name(call[0])
            code = source.replace(call[0], "found")
            assert fact["value"] == pytest.approx(eval(code, {"found": found, "len": len})), key


def test_arms_are_marked_as_they_are_trained(paper):
    from sedm.config import COMPARED
    from sedm.experiments.arms import ARMS

    marked = {one["arm"]: one["colours"] for one in paper.traces("arm")}
    assert marked == {name: ARMS[name].augmented for name in COMPARED}


def test_values_say_which_run_made_them(paper):
    files = {name for one in paper.traces("value") for name, _ in one["of"]}
    for name in files:
        whole = values_file(name)
        run = whole.get("run", whole.get("machine"))
        assert {"commit", "versions", "device"} <= set(run), name
        assert re.fullmatch(r"[0-9a-f]{12,40}", run["commit"]), f"{name} was made by code that is not committed"


def test_a_missing_key_stops_the_compilation_with_its_name_and_file(copy):
    spoil(copy / "figures" / "tissue" / "values_fidelity.json", '"layout_iou": {', '"layout_uoi": {')
    with pytest.raises(typst.TypstError, match=r"tissue/values_fidelity\.json has no table/layout_iou"):
        Paper(copy).compile()


def test_a_missing_unit_of_the_ablations_stops_the_compilation(copy):
    (copy / "figures" / "tissue" / "ablations" / "values_bottleneck-seed1.json").unlink()
    with pytest.raises(typst.TypstError, match="not found"):
        Paper(copy).compile()


def test_a_sentence_that_the_values_no_longer_support_stops_the_compilation(copy):
    for path in (copy / "figures" / "tissue" / "ablations").glob("values_encoder_frozen-*.json"):
        unit = json.loads(path.read_text())
        unit["values"]["measures"]["retrieval_top1"] = 0.1
        path.write_text(json.dumps(unit))
    with pytest.raises(typst.TypstError, match="no longer say: a frozen style encoder does as well"):
        Paper(copy).compile()


def test_a_kernel_distance_of_another_network_than_the_table_stops_the_compilation(copy):
    path = copy / "figures" / "tissue" / "values_fidelity.json"
    whole = json.loads(path.read_text())
    network = whole["values"]["table"]["kernel_distance"]["generated"]["measured_on"]
    whole["values"]["measured_on"] = {"kernel_distance": network}
    path.write_text(json.dumps(whole))
    Paper(copy).compile()
    whole["values"]["measured_on"]["kernel_distance"] = "another network"
    path.write_text(json.dumps(whole))
    with pytest.raises(typst.TypstError, match="kernel distances on another network: another network"):
        Paper(copy).compile()


# --------------------------------------------------------------------------------------------------------- figures


def git(*arguments, root):
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def last_change(path, root, part=lambda text: text):
    """When ``part`` of a file last changed: the time of the commit, or infinity where the change is not committed."""
    if git("status", "--porcelain", "--", path, root=root):
        return math.inf
    lines = [line.split() for line in git("log", "--format=%H %ct", "--", path, root=root).splitlines()]
    if part is None or len(lines) == 1:
        return int(lines[0][1])
    contents = [part(git("show", f"{commit}:{path}", root=root)) for commit, _ in lines]
    for i, (_, when) in enumerate(lines):
        if i + 1 == len(lines) or contents[i] != contents[i + 1]:
            return int(when)


def why_stale(figure, values, root):
    """Why a figure is not that of its values, or an empty string.

    Values tell the hashes of their figures. Those of runs before that was so are compared by when they were committed.
    """
    run = json.loads((root / values).read_text())["run"]
    if "figures" in run:
        found = hashlib.sha256((root / figure).read_bytes()).hexdigest()[:12]
        wanted = run["figures"].get(Path(figure).name, "no such figure")
        return "" if found == wanted else f"{figure} is {found}, but {values} was saved with {wanted}"
    changed = last_change(values, root, lambda text: json.dumps(json.loads(text)["values"]))
    return "" if last_change(figure, root, None) >= changed else f"{figure} is older than the values of {values}"


def test_every_figure_is_that_of_its_values(paper):
    drawn = paper.traces("drawn")
    assert drawn
    try:
        git("rev-parse", "--verify", "HEAD", root=ROOT)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    if git("rev-parse", "--is-shallow-repository", root=ROOT) == "true":
        pytest.skip("a shallow checkout: no history to compare")
    pairs = [(f"figures/{one['figure']}", f"figures/{one['values']}") for one in drawn]
    assert [reason for pair in pairs if (reason := why_stale(*pair, ROOT))] == []


def test_every_image_is_drawn_by_a_run_and_committed(paper):
    shown = {f"../figures/{one['figure']}" for one in paper.traces("drawn")}
    assert set(paper.elements("image", "source")) == shown
    assert all(Path(one["figure"]).parent == Path(one["values"]).parent for one in paper.traces("drawn"))


def test_a_missing_figure_stops_the_compilation(copy):
    (copy / "figures" / "tissue" / "fig_samples.png").unlink()
    with pytest.raises(typst.TypstError, match="not found"):
        Paper(copy).compile()


@pytest.fixture
def pair(tmp_path):
    """A committed figure with its values, as a run saves them."""
    (tmp_path / "fig.png").write_bytes(b"first")
    (tmp_path / "values.json").write_text(json.dumps({"values": {"a": 1}, "run": {"seconds": 1}}))
    commit(tmp_path, "2026-01-01", first=True)
    return tmp_path


def commit(root, day, first=False):
    if first:
        git("init", "-q", root=root)
    git("add", ".", root=root)
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", day]
    dates = {"GIT_AUTHOR_DATE": f"{day}T00:00:00Z", "GIT_COMMITTER_DATE": f"{day}T00:00:00Z"}
    subprocess.run(command, cwd=root, env=os.environ | dates, check=True)


def test_a_figure_is_stale_when_its_values_changed_after_it(pair):
    assert why_stale("fig.png", "values.json", pair) == ""
    (pair / "values.json").write_text(json.dumps({"values": {"a": 1}, "run": {"seconds": 2}}))
    commit(pair, "2026-01-02")
    assert why_stale("fig.png", "values.json", pair) == ""  # only the duration is another
    (pair / "values.json").write_text(json.dumps({"values": {"a": 2}, "run": {"seconds": 2}}))
    assert "older" in why_stale("fig.png", "values.json", pair)
    commit(pair, "2026-01-03")
    assert "older" in why_stale("fig.png", "values.json", pair)
    (pair / "fig.png").write_bytes(b"second")
    commit(pair, "2026-01-04")
    assert why_stale("fig.png", "values.json", pair) == ""


def test_a_figure_is_stale_when_its_values_were_saved_with_another(pair):
    drawn = {"fig.png": hashlib.sha256(b"first").hexdigest()[:12]}
    (pair / "values.json").write_text(json.dumps({"values": {"a": 2}, "run": {"figures": drawn}}))
    assert why_stale("fig.png", "values.json", pair) == ""
    (pair / "fig.png").write_bytes(b"second")
    assert "saved with" in why_stale("fig.png", "values.json", pair)


# ------------------------------------------------------------------------------------------------------- references


def entries():
    text = (ROOT / "paper" / "references.bib").read_text()
    for entry in re.split(r"^@", text, flags=re.MULTILINE)[1:]:
        key = re.match(r"\w+\{(\w+),", entry)[1]
        yield key, dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", entry, flags=re.MULTILINE))


def test_references_are_those_that_are_cited(paper):
    cited = {key.strip("<>") for key in paper.elements("cite", "key")}
    known = [key for key, _ in entries()]
    assert len(known) == len(set(known))
    assert cited == set(known)


@pytest.mark.parametrize(("key", "fields"), entries(), ids=[key for key, _ in entries()])
def test_a_reference_has_title_authors_year_and_venue(key, fields):
    assert {"title", "author", "year"} <= set(fields)
    assert {"journal", "booktitle", "publisher"} & set(fields)
    assert "others" not in fields["author"]
    assert fields["year"] in key  # ottl2024sedm


def test_an_undefined_citation_stops_the_compilation(copy):
    spoil(copy / "paper" / "introduction.typ", "@ottl2024sedm", "@nobody2024")
    with pytest.raises(typst.TypstError, match="nobody2024"):
        Paper(copy).compile()


def test_a_results_folder_tells_its_figures(tmp_path):
    from matplotlib.figure import Figure

    from sedm.config import build_config
    from sedm.runtime.results import Results

    results = Results(build_config("ebhi", "full"), tmp_path / "figures", tmp_path / "run")
    path = results.save_figure(Figure(), "toy", shows_data=False)
    results.save_figure(Figure(), "hidden", shows_data=True)
    run = json.loads(results.save_values("toy", {}).read_text())["run"]
    assert run["figures"] == {"fig_toy.png": hashlib.sha256(path.read_bytes()).hexdigest()[:12]}
