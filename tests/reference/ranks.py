"""Ranks by explicit loops over float64 inner products."""


def naive_ranks(images, texts, image_of_text):
    """(text to image, image to text) ranks; a tie goes to the lowest index."""
    n, m = len(images), len(texts)
    s = [[float((images[i].double() * texts[t].double()).sum()) for t in range(m)] for i in range(n)]
    to_image = []
    for t in range(m):
        own = int(image_of_text[t])
        to_image.append(sum(s[i][t] > s[own][t] or (s[i][t] == s[own][t] and i < own) for i in range(n)))
    to_text = []
    for i in range(n):
        order = sorted(range(m), key=lambda t: (-s[i][t], t))
        to_text.append(next(r for r, t in enumerate(order) if image_of_text[t] == i))
    return to_image, to_text
