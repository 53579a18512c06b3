"""The tables of rank against precision with their intervals, and what the report says about memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftbench.report import table
from peftbench.report.collect import collect
from peftbench.report.notes import memory
from tests.support.results_factory import WEIGHTS, make_result, settings_of, store

RANKS = (3, 7, 11, 33, 77, 61)
PAIR = (("lora", "fp32"), ("qlora", "nf4"))


# the tables


def test_the_rank_tables_give_means_and_half_widths(tmp_path: Path) -> None:
    scores = [{"judge": 0.5 + 0.1 * seed, "compute": 0.5 - 0.1 * seed} for seed in range(3)]
    rows = [make_result(seed=seed, scores=score, base_weights_bytes=2**20) for seed, score in enumerate(scores)]
    folder = store(tmp_path / "r", *rows, tasks=("judge", "compute"))
    text = table(folder, "ranks")
    assert text.startswith(
        "Mean ± half width of the 95 % t-interval over n = 3 seeds. The mean over tasks is taken per"
    )
    assert "### LoRA (rank r)" in text
    half = 4.302653 * 10 / 3**0.5  # the t quantile of two degrees of freedom, a standard deviation of ten points
    assert f"**judge** (%)\n\n| r | fp32 |\n| ---: | ---: |\n| 8 | 60.0 ± {half:.1f} |" in text
    assert "**mean over tasks** (%)\n\n| r | fp32 |\n| ---: | ---: |\n| 8 | 50.0 ± 0.0 |" in text  # of each seed
    assert "**base weights** (MiB)\n\n| r | fp32 |\n| ---: | ---: |\n| 8 | 1.00 |" in text


def test_the_rank_tables_of_one_seed_have_no_interval(tmp_path: Path) -> None:
    text = table(store(tmp_path / "r", make_result()), "ranks")
    assert text.startswith("Means of one seed per cell, so there is no interval.")
    assert "±" not in text


def test_the_rank_tables_mark_other_numbers_of_seeds_and_cells_without_a_number(tmp_path: Path) -> None:
    made = [make_result(seed=seed, scores={"judge": 0.5 + seed / 10}) for seed in range(3)]
    made += [make_result("lora r=8 bf16", precision="bf16", seed=s, status="oom" if s else "ok") for s in range(3)]
    made += [make_result("lora r=8 int8", precision="int8", seed=0, status="unsupported")]
    made += [make_result("lora r=8 nf4", precision="nf4", seed=0, status="oom")]
    text = table(store(tmp_path / "r", *made), "ranks")
    assert "over n = 3 seeds unless an entry gives another n; one seed has no interval." in text
    assert "| r | fp32 | bf16 | int8 | nf4 |" in text
    assert "| 8 | 60.0 ± 24.8 | 90.0 (n=1) | unsupported | 1 oom |" in text


def test_a_report_of_untuned_base_models_only_has_a_heading(tmp_path: Path) -> None:
    rows = [make_result(f"base {p}", "base", p, None, None, key=p) for p in ("fp32", "bf16")]
    text = table(store(tmp_path / "r", *rows), "ranks")
    assert text.startswith("No tuned cell has a finished trial.")
    assert "base weights" in text
    assert "train time" not in text
    assert "(n=1)" not in text


# memory


def test_the_memory_note_depends_on_which_part_is_larger(tmp_path: Path) -> None:
    def sentence(name: str, weights: int, activations: int) -> str:
        sizes = {"peak_base_weights_bytes": weights, "peak_activations_bytes": activations}
        results = collect(store(tmp_path / name, make_result(**sizes, peak_train_bytes=weights + activations)))
        text = memory.sentences(results)[1]
        assert (text in table(tmp_path / name, "md").replace("\\", "")) is (activations > weights)
        return text

    small = sentence("small", 1_000_000, 3_000_000)
    assert (
        "larger than the base weights in 1 of 1 cell (by a factor of 3.0). In unquantized cells the weights are 25 %"
        in small
    )
    assert "Base weights are larger than activations" in sentence("large", 14_000_000_000, 2_000_000_000)


def test_the_memory_note_gives_the_factor_of_a_minority_of_cells_with_large_activations(tmp_path: Path) -> None:
    rows = [
        make_result(f"lora r={rank} fp32", rank=rank, peak_base_weights_bytes=100, peak_activations_bytes=moving)
        for rank, moving in ((2, 10), (4, 20), (8, 150))
    ]
    (note,) = memory.notes(collect(store(tmp_path / "r", *rows)))
    assert "Base weights are larger than activations, logits and temporaries together in 2 of 3 cells" in note
    assert "in 2 of 3 cells (others: up to 1.5 times" in note


def test_results_without_peaks_have_no_memory_note(tmp_path: Path) -> None:
    results = collect(store(tmp_path / "r", make_result(), make_result("lora r=8 nf4", precision="nf4", status="oom")))
    assert memory.notes(results) == ("Memory by tensor accounting.",)
    assert len(memory.sentences(results)) == 1


def _pair(folder: Path, *rows: tuple[str, str, int, dict[str, object]]) -> str:
    """Return the last memory note of some cells: method, precision, rank, what ``settings_of`` takes."""
    made = [
        make_result(
            f"{method} r={rank} {precision}",
            method,
            precision,
            rank,
            settings_json=json.dumps(settings_of(method, **settings)),  # type: ignore[arg-type]
            base_weights_bytes=WEIGHTS[precision],
            peak_train_bytes=WEIGHTS[precision] + 18_000_000,
        )
        for method, precision, rank, settings in rows
    ]
    notes = memory.notes(collect(store(folder, *made)))
    assert all(len(note) < 245 for note in notes)
    return "" if notes[-1].startswith("Memory by") else notes[-1]


def test_a_comparable_pair_is_named_with_base_weights_and_totals(tmp_path: Path) -> None:
    text = _pair(tmp_path / "r", ("lora", "fp32", 8, {}), ("lora", "bf16", 8, {}), ("qlora", "nf4", 8, {}))
    assert text == (
        "Memory totals are comparable only at equal target modules, rank and checkpointing. With these equal "
        "(no checkpointing): qlora r=8 nf4 vs. lora r=8 bf16: base weights 0.706 vs. 1.91 MiB, peak 17.9 vs. 19.1 MiB."
    )


def test_of_several_comparable_pairs_the_table_names_the_middle_one_and_the_page_all(tmp_path: Path) -> None:
    rows = [(method, precision, rank, {}) for method, precision in PAIR for rank in (4, 8, 16)]
    text = _pair(tmp_path / "r", *rows)
    assert "qlora r=8 nf4 vs. lora r=8 fp32" in text
    assert text.endswith("; 2 more pairs on the page.")
    assert memory.sentences(collect(tmp_path / "r"))[-1].count("vs. lora") == 3


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"targets": "q_proj, v_proj"}, "are not comparable: target modules differ."),
        ({"checkpointing": True}, "are not comparable: gradient checkpointing differs."),
        ({"targets": "q", "checkpointing": True}, "target modules and gradient checkpointing differ."),
        ({"micro_batch_size": 8}, "are not comparable: micro-batch sizes differ."),
        ({"sequence_length": 64}, "are not comparable: sequence lengths differ."),
        ({"packing": True}, "are not comparable: packing differs."),
        ({"logits": "chunked"}, "are not comparable: the positions that have logits differ."),
    ],
)
def test_totals_of_cells_with_unequal_settings_are_reported_as_not_comparable(
    tmp_path: Path, settings: dict[str, object], text: str
) -> None:
    note = _pair(tmp_path / "r", ("lora", "fp32", 8, {}), ("qlora", "nf4", 8, settings))
    assert note.startswith("Memory totals of qlora r=8 nf4 and lora r=8 fp32 are not comparable: ")
    assert note.endswith(f"{text} Base weights are: 0.706 vs. 3.81 MiB.")


def test_cells_without_a_partner_make_no_pair(tmp_path: Path) -> None:
    assert _pair(tmp_path / "alone", ("lora", "fp32", 8, {}), ("lora", "bf16", 8, {})) == ""
    assert "no rank in common" in _pair(tmp_path / "ranks", ("lora", "fp32", 8, {}), ("qlora", "nf4", 4, {}))
    unknown = [make_result(), make_result("qlora r=8 nf4", "qlora", "nf4")]
    assert memory.notes(collect(store(tmp_path / "unknown", *unknown))) == ("Memory by tensor accounting.",)


def test_the_page_reports_the_largest_unexplained_and_mispredicted_share_of_a_peak(tmp_path: Path) -> None:
    def said(**columns: int) -> str:
        rows = [make_result(seed=seed, peak_train_bytes=1000, **columns) for seed in (0, 1)]
        return " ".join(memory.sentences(collect(store(tmp_path / f"r{len(list(tmp_path.iterdir()))}", *rows))))

    assert "the allocator's own peak to within 2.0 % in 2 trials" in said(peak_unexplained_bytes=-20)
    assert "equal the measured ones to the byte in 2 trials" in said(predicted_train_bytes=1000)
    assert "equal the measured ones to within 5.0 % in 2 trials" in said(predicted_train_bytes=950)
    assert "allocator's own" not in said()
