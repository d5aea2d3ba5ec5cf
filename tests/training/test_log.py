from clipib.training.log import MetricsLog


def test_a_resumed_log_drops_the_steps_that_will_be_done_again(tmp_path):
    log = MetricsLog(tmp_path / "m.csv", ["step", "loss"])
    for step in range(5):
        log.add(step=step, loss=step / 2)
    log.close()
    log = MetricsLog(tmp_path / "m.csv", ["step", "loss"], after_step=2)
    log.add(step=3, loss=9.0, unknown=1)
    log.close()
    assert (tmp_path / "m.csv").read_text() == "step,loss\n0,0.0\n1,0.5\n2,1.0\n3,9.0\n"
