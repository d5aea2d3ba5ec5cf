"""Ranks by explicit loops over float64 inner products."""


def naive_ranks(images, texts, image_of_text):
    """(text to image, image to text) ranks; a tie goes to the lowest index."""
    scores = inner_products(images, texts)
    return ranks_of_scores(scores, image_of_text)[:2]


def inner_products(images, texts):
    """(N) lists of (M) float64 inner products."""
    return [[float((image.double() * text.double()).sum()) for text in texts] for image in images]


def ranks_of_scores(scores, image_of_text):
    """What `Ranks` holds, as lists: two ranks, two counts of items ahead, two of ties, and places of own texts.

    scores[i][t] scores image i against text t.
    """
    owner = [int(i) for i in image_of_text]
    n, m = len(scores), len(owner)
    text_rank, text_ahead, text_tied = [], [], []
    for t in range(m):
        mine = scores[owner[t]][t]
        others = [(scores[i][t], i) for i in range(n) if i != owner[t]]
        text_ahead.append(sum(s > mine for s, _ in others))
        text_tied.append(sum(s == mine for s, _ in others))
        text_rank.append(text_ahead[-1] + sum(s == mine and i < owner[t] for s, i in others))
    image_rank, image_ahead, image_tied, places = [], [], [], [0] * m
    for i in range(n):
        order = sorted(range(m), key=lambda t: (-scores[i][t], t))
        own = [t for t in order if owner[t] == i]
        best = scores[i][own[0]]
        image_rank.append(order.index(own[0]))
        image_ahead.append(sum(scores[i][t] > best for t in range(m)))
        image_tied.append(sum(scores[i][t] == best and owner[t] != i for t in range(m)))
        for t in own:
            places[t] = min(order.index(t), len(own))
    return text_rank, image_rank, text_ahead, image_ahead, text_tied, image_tied, places
