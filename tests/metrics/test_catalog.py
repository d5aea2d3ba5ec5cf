from clipib.metrics.catalog import HIGHER, LOWER, METRICS, metric_of


def test_a_cut_off_does_not_change_the_metric():
    found = metric_of("image_retrieval_recall@7")
    assert found[:2] == METRICS["image_retrieval_recall@"][:2] and found.words.endswith("among the first 7")
    assert metric_of("image_retrieval_recall@x") is None
    assert metric_of("text_retrieval_map@r").better == HIGHER


def test_errors_and_ranks_are_better_when_lower():
    assert {n for n, m in METRICS.items() if m.better == LOWER} == {
        "nll",
        "ece",
        "image_retrieval_median_rank",
        "text_retrieval_median_rank",
        "image_retrieval_mean_rank",
        "text_retrieval_mean_rank",
    }


def test_what_only_describes_is_no_metric():
    assert metric_of("acc1_bayes") is None
    assert metric_of("pmi_slope") is None
