"""How well predictors rank the losses of curves."""

import numpy as np
import pandas as pd
import pytest
from report_frames import PLACE, load_script
from scipy.stats import spearmanr

from neuralign.report.theory_ranks import COLUMNS, PREDICTORS, paths, ranks, spearman


def table(losses: list[float], bounds: list[float], pairs: list[str]) -> pd.DataFrame:
    columns = {name: np.arange(len(losses)) for name in PREDICTORS}
    return pd.DataFrame(columns | PLACE | {"pair": pairs, "loss": losses, "bound": bounds})


def row(frame: pd.DataFrame, predictor: str = "bound") -> pd.Series:
    return frame.set_index("predictor").loc[predictor]


def test_spearman_agrees_with_scipy() -> None:
    first, second = np.random.default_rng(0).integers(0, 9, (2, 30))
    assert spearman(pd.Series(first), pd.Series(second)) == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)
    assert np.isnan(spearman(pd.Series([1, 1]), pd.Series([1, 2])))


def test_there_is_a_row_for_each_setting_and_predictor() -> None:
    curves = table([1, 2, 3, 4], [1, 3, 2, 4], ["1-2", "1-2", "3-4", "3-4"])
    table_of_ranks = ranks(pd.concat([curves, curves.assign(network="resnet32")]))
    assert list(table_of_ranks) == COLUMNS and len(table_of_ranks) == 2 * len(PREDICTORS)
    assert (table_of_ranks["n_paths"] == 4).all() and (table_of_ranks["n_pairs"] == 2).all()


def test_the_interval_is_by_fishers_z_and_p_by_permutations() -> None:
    predictor_row = row(ranks(table([1, 2, 3, 4, 5], [1, 2, 3, 5, 4], list("abcde"))))
    assert predictor_row["spearman"] == pytest.approx(0.9)
    half = 1.96 * np.sqrt(1.06 / 2)
    assert [predictor_row["ci_low"], predictor_row["ci_high"]] == pytest.approx(
        list(np.tanh(np.arctanh(0.9) + np.array([-half, half])))
    )
    assert predictor_row["p"] == pytest.approx(10 / 120, abs=0.01)  # 5 orders of 120 are as good, 5 as bad
    assert np.isnan(predictor_row["spearman_within"]) and np.isnan(
        predictor_row["p_within"]
    )  # every pair has one curve


def test_correlations_within_pairs_ignore_differences_between_pairs() -> None:
    losses, bounds, pairs = [1, 2, 11, 12, 21, 22], [2, 1, 12, 11, 22, 21], ["a", "a", "b", "b", "c", "c"]
    predictor_row = row(ranks(table(losses, bounds, pairs)))
    assert predictor_row["spearman"] > 0.8 and predictor_row["spearman_within"] == pytest.approx(-1)
    assert predictor_row["p_within"] == pytest.approx(2 / 8, abs=0.02)


@pytest.mark.parametrize(
    ("losses", "bounds", "reason"),
    [([1, 2, 3], [1, 2, 3], "too few curves"), ([1] * 4, [1, 2, 3, 4], "nothing to rank"),
     ([1, 2, 3, 4], [2, 3, 4, 5], "all ranks agree"), ([1, 2, 3, 4], [np.nan] * 4, "nothing to rank")],
)  # fmt: skip
def test_no_interval_comes_with_the_reason(losses, bounds, reason) -> None:
    predictor_row = row(ranks(table(losses, bounds, ["a"] * len(losses))))
    assert predictor_row["reason"] == reason and np.isnan(predictor_row["ci_low"])


def test_a_curve_has_the_predictors_of_its_line_and_its_own_clean_loss() -> None:
    run = PLACE | {"pair": "1-2", "method": "aligned", "curve_seed": 1}
    lines = pd.DataFrame([run | {"bound": 9.0, "loss": 3.0, "loss_max": 4.0, "estimate": 2.0, "distance": 0.1}])
    measured = pd.DataFrame([run | {"attack": a, "loss_mean": loss} for a, loss in (("clean", 0.5), ("pgd5", 7.0))])
    (path,) = paths(lines, measured).to_dict("records")
    assert (path["loss"], path["line_loss"], path["line_loss_max"], path["bound"]) == (0.5, 3.0, 4.0, 9.0)


def test_the_script_joins_bounds_and_evaluations(tmp_path, monkeypatch) -> None:
    runs = [PLACE | {"pair": "1-2", "method": m, "curve_seed": 1, "alignment": m} for m in ("none", "other")]
    bounds, evaluations = [[str(tmp_path / f"{kind}{i}.csv") for i in range(2)] for kind in ("b", "e")]
    t = [0.0, 0.5, 1.0]
    for i in range(2):
        line = {"images": 9, "loss": 3 - i, "loss_max": 4, "bound": 5 - i, "estimate": 2 - i, "distance": 1 - i}
        pd.DataFrame([line]).to_csv(bounds[i], index=False)
        points = {"t": t, "distance": t, "attack": "clean", "statistics": "reestimated", "loss": 1.0 - i / 2}
        pd.DataFrame(points | {"accuracy": 50.0, "images": 9}).to_csv(evaluations[i], index=False)
    theory, curves = str(tmp_path / "theory.csv"), str(tmp_path / "paths.csv")
    load_script("tabulate_theory", monkeypatch).main(bounds, evaluations, theory, curves, runs=runs)
    assert pd.read_csv(curves)["loss"].tolist() == [1.0, 0.5]
    assert pd.read_csv(theory)["spearman"].tolist() == pytest.approx([1.0] * len(PREDICTORS))
