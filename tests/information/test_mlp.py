import torch

from clipib.information.mlp import Based, Mlp, fit_mlp


def rows(n, seed, *, base=0.0):
    """Labels that are the exclusive or of two signs, with a base that says a little."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator)
    labels = ((x[:, 0] * x[:, 1]) > 0).long()
    return Based(x, torch.tensor([[base, 0.0]]).repeat(n, 1).log_softmax(1), labels)


def test_probabilities_equal_loops_over_neurons():
    generator = torch.Generator().manual_seed(1)
    model = Mlp(*(torch.randn(*shape, generator=generator) for shape in ((3, 5), (5,), (5, 4), (4,))))
    x, base = torch.randn(7, 3, generator=generator), torch.randn(7, 4, generator=generator)
    found = model.log_probabilities(x, base)
    for i in range(7):
        logits = []
        for k in range(4):
            total = float(base[i, k] + model.out_bias[k])
            for h in range(5):
                activity = max(0.0, float(x[i] @ model.hidden[:, h] + model.hidden_bias[h]))
                total += activity * float(model.out[h, k])
            logits.append(total)
        expected = torch.tensor(logits).log_softmax(0)
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-4)  # float32, sums of tens


def test_it_learns_what_no_line_parts():
    model = fit_mlp(rows(500, 0), rows(200, 1), seed=0)
    judged = rows(1000, 2)
    code = torch.nn.functional.nll_loss(model.log_probabilities(judged.features, judged.base), judged.labels)
    assert float(code) < 0.2  # 0 for the truth, log 2 for a line


def test_it_stays_at_the_base_where_every_epoch_makes_the_code_longer():
    generator = torch.Generator().manual_seed(1)
    base = torch.full((200, 2), 0.5).log()
    noise = [
        Based(torch.randn(200, 64, generator=generator), base, torch.randint(0, 2, (200,), generator=generator))
        for _ in range(2)
    ]
    model = fit_mlp(*noise, seed=0)
    assert torch.equal(model.log_probabilities(noise[1].features, base), base)


def test_a_seed_gives_one_result_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    first, second, third = (fit_mlp(rows(100, 0), rows(100, 1), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second)) and not torch.equal(first.hidden, third.hidden)
    assert not any(weight.requires_grad for weight in first)
