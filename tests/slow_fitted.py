"""Objectives of the fitted heads in scalar loops, as their papers write them."""

import math


def scores_of(weight, bias, features):
    bias = [0.0] * len(weight) if bias is None else bias
    return [
        [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        for x in features
    ]


def unit(features):
    return [[v / (math.sqrt(sum(u * u for u in x)) or 1.0) for v in x] for x in features]


def minus_log_p(z, c):
    return math.log(sum(math.exp(v) for v in z)) - z[c]


def mean_over_rows(scores, labels, loss):
    return sum(loss(z, y) for z, y in zip(scores, labels, strict=True)) / len(labels)


def mean_over_classes(scores, labels, loss, num_classes):
    means = []
    for c in range(num_classes):
        losses = [loss(z, y) for z, y in zip(scores, labels, strict=True) if y == c]
        means.append(sum(losses) / len(losses))
    return sum(means) / num_classes


def penalty(weight, strength, start=None):
    start = [[0.0] * len(row) for row in weight] if start is None else start
    away = sum((w - u) ** 2 for row, old in zip(weight, start, strict=True) for w, u in zip(row, old, strict=True))
    return strength / 2 * away


def effective_number(counts, beta):
    raw = [(1 - beta) / (1 - beta**n) for n in counts]
    return [len(raw) * value / sum(raw) for value in raw]


def inverse_power(counts, rho):
    raw = [(n / sum(counts)) ** -rho for n in counts]
    return [len(raw) * value / sum(raw) for value in raw]


def balanced_softmax(counts):
    return lambda z, y: minus_log_p([v + math.log(n) for v, n in zip(z, counts, strict=True)], y)


def vs(counts, gamma, tau):
    def loss(z, y):
        shifted = [
            v / (max(counts) / n) ** gamma + tau * math.log(n / sum(counts)) for v, n in zip(z, counts, strict=True)
        ]
        return minus_log_p(shifted, y)

    return loss


def ldam(counts, most, scale):
    margins = [n**-0.25 * most / min(counts) ** -0.25 for n in counts]

    def loss(z, y):
        return minus_log_p([scale * (v - (margins[c] if c == y else 0)) for c, v in enumerate(z)], y)

    return loss


def weighted(weights, loss):
    return lambda z, y: weights[y] * loss(z, y)


def focal(gamma):
    def loss(z, y):
        total = 0.0
        for c, v in enumerate(z):
            q = 1 / (1 + math.exp(-v if c == y else v))
            total += -((1 - q) ** gamma) * math.log(q)
        return total

    return loss


def softmax_bce(z, y):
    total = sum(math.exp(v) for v in z)
    p = [math.exp(v) / total for v in z]
    return sum(-math.log(q) if c == y else -math.log(1 - q) for c, q in enumerate(p)) / len(z)


def smoothed(epsilon):
    def loss(z, y):
        own, mean = minus_log_p(z, y), sum(minus_log_p(z, c) for c in range(len(z))) / len(z)
        return (1 - epsilon[y]) * own + epsilon[y] * mean

    return loss


def label_aware(counts, most, least, shape, power):
    shares = []
    for n in counts:
        r = (n - min(counts)) / (max(counts) - min(counts))
        shares.append(
            {
                "concave": math.sin(math.pi * r / 2),
                "linear": r,
                "convex": 1 + math.sin(1.5 * math.pi + math.pi * r / 2),
                "exponential": r**power,
            }[shape]
        )
    return [least + (most - least) * share for share in shares]


def geometric_mean(scores, labels, counts):
    total = 0.0
    for c in range(len(counts)):
        right = [math.exp(-balanced_softmax(counts)(z, y)) for z, y in zip(scores, labels, strict=True) if y == c]
        total += math.log(sum(right) / len(right))
    return -total / len(counts)


def lade(scores, labels, counts, alpha, lam):
    value = mean_over_rows(scores, labels, balanced_softmax(counts))
    for c, n in enumerate(counts):
        pi = n / sum(counts)
        own = [z[c] for z, y in zip(scores, labels, strict=True) if y == c]
        a = sum(own) / len(own)
        b = math.log(sum(math.exp(z[c] - math.log(pi) - math.log(len(counts))) for z in scores) / len(scores))
        value -= alpha * pi * (a - b - lam * b * b)
    return value
