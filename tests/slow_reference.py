"""Slow, scalar transliterations of the formulas, loop by loop: what the fast code must equal."""

import math

import numpy as np

# -- fitted heads: losses, solvers, samplers --------------------------------------------------------------------------


def slow_cross_entropy(logits, labels, weights):
    """Σ_i w_i (log Σ_k exp z_ik - z_{i,y_i}) and its gradient w_i (p_ik - [k = y_i])."""
    loss, gradient = 0.0, np.zeros((len(logits), len(logits[0])))
    for i in range(len(logits)):
        total = sum(math.exp(z) for z in logits[i])
        loss += weights[i] * (math.log(total) - logits[i][labels[i]])
        for k in range(len(logits[i])):
            gradient[i, k] = weights[i] * (math.exp(logits[i][k]) / total - (1 if k == labels[i] else 0))
    return loss, gradient


def slow_balanced_loss(scores, labels, num_classes):
    """Mean over classes of the mean loss of a class."""
    per_class = []
    for c in range(num_classes):
        losses = []
        for z, y in zip(scores, labels, strict=True):
            if y == c:
                losses.append(math.log(sum(math.exp(v) for v in z)) - z[y])
        per_class.append(sum(losses) / len(losses))
    return sum(per_class) / num_classes


def slow_crt_objective(weight, bias, features, labels, strength):
    """The cRT objective, class-balanced cross entropy plus strength/2 ‖W‖²."""
    scores = [
        [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        for x in features
    ]
    return slow_balanced_loss(scores, labels, len(weight)) + strength / 2 * sum(w * w for row in weight for w in row)


def slow_lws_objective(scale, logits, labels, strength):
    """The LWS objective, class-balanced cross entropy of f ∘ z plus strength/2 ‖f - 1‖²."""
    scores = [[f * v for f, v in zip(scale, z, strict=True)] for z in logits]
    return slow_balanced_loss(scores, labels, len(scale)) + strength / 2 * sum((f - 1) ** 2 for f in scale)


def slow_sgd(weight, bias, batches, learning_rates, weight_decay):
    """SGD with momentum 0.9 on the mean cross entropy of each batch (features, labels)."""
    parameters = np.concatenate([weight, bias[:, None]], axis=1).astype(np.float64)
    velocity = np.zeros_like(parameters)
    for (features, labels), rate in zip(batches, learning_rates, strict=True):
        gradient = np.zeros_like(parameters)
        for x, y in zip(features, labels, strict=True):
            extended = [*x, 1.0]
            scores = [sum(w * v for w, v in zip(row, extended, strict=True)) for row in parameters]
            total = sum(math.exp(z) for z in scores)
            for k, z in enumerate(scores):
                for d, v in enumerate(extended):
                    gradient[k, d] += (math.exp(z) / total - (1 if k == y else 0)) * v / len(features)
        velocity = 0.9 * velocity + gradient + weight_decay * parameters
        parameters = parameters - rate * velocity
    return parameters[:, :-1], parameters[:, -1]


def slow_nearest_mean(features, labels, num_classes, queries, metric):
    """Class of every query by the reference code's rule (or the true cosine)."""
    rows = [[float(v) for v in x] for x in features]
    num_features = len(rows[0])
    centre = [0.0] * num_features
    if metric == "cl2n":
        centre = [sum(x[d] for x in rows) / len(rows) for d in range(num_features)]

    def changed(x):
        if metric not in ("l2n", "cl2n"):
            return [float(v) for v in x]
        moved = [v - m for v, m in zip(x, centre, strict=True)]
        norm = math.sqrt(sum(v * v for v in moved))
        return [v / norm for v in moved]

    means = []
    for c in range(num_classes):
        members = [changed(x) for x, y in zip(rows, labels, strict=True) if y == c]
        means.append([sum(x[d] for x in members) / len(members) for d in range(num_features)])
    found = []
    for query in queries:
        q, scores = changed(query), []
        for mean in means:
            if metric == "cosine":
                product = sum(a * b for a, b in zip(q, mean, strict=True))
                scores.append(product / math.sqrt(sum(b * b for b in mean)) / math.sqrt(sum(a * a for a in q)))
            else:
                scores.append(-sum((a - b) ** 2 for a, b in zip(q, mean, strict=True)))
        found.append(max(range(num_classes), key=scores.__getitem__))
    return found


def slow_class_probability(sampler, counts, c, progress):
    """Kang et al., equation 1 (q = 1, 1/2, 0) and equation 2."""
    if sampler == "progressive":
        return (1 - progress) * slow_class_probability("instance", counts, c, 0) + progress * slow_class_probability(
            "class-balanced", counts, c, 0
        )
    q = {"instance": 1, "square-root": 0.5, "class-balanced": 0}[sampler]
    return counts[c] ** q / sum(n**q for n in counts)


def slow_loss(scores, labels, weights, offset=None, scale=None, margin=None, smoothing=None):
    """Σ_i w_i [(1 - ε_y) CE(z'_i, y) + ε_y mean_c CE(z'_i, c)], z'_ic = s_c z_ic + t_c - m_c [c = y]."""
    num_classes, total = len(scores[0]), 0.0
    for z, y, w in zip(scores, labels, weights, strict=True):
        adjusted = []
        for c in range(num_classes):
            value = (1.0 if scale is None else scale[c]) * z[c]
            value += 0.0 if offset is None else offset[c]
            value -= margin[c] if margin is not None and c == y else 0.0
            adjusted.append(value)
        log_sum = math.log(sum(math.exp(value) for value in adjusted))
        spread = 0.0 if smoothing is None else smoothing[y]
        uniform = sum(log_sum - value for value in adjusted) / num_classes
        total += w * ((1 - spread) * (log_sum - adjusted[y]) + spread * uniform)
    return total
