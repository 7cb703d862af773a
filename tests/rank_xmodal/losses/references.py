"""Every loss once more in plain Python, to be read beside the formula in its docstring.

A reference takes the scores and labels of one list and the settings of the loss. It returns the loss of the list, or
None where the list can teach that loss nothing. `test_every_loss.py` holds each loss of the registry against it.
"""

import math
from itertools import product


def without_padding(scores, labels):
    return [(s, y) for s, y in zip(scores, labels, strict=True) if y >= 0]


def preferred(items):
    """Return (score_i, score_j) of all pairs with label_i > label_j."""
    return [(score_i, score_j) for score_i, label_i in items for score_j, label_j in items if label_i > label_j]


def kinds(items):
    """Return the scores of the relevant items and those of the others."""
    return [s for s, y in items if y > 0], [s for s, y in items if y == 0]


def gain(label):
    return 2.0**label - 1


def discount(rank, k=None):
    return 1 / math.log2(1 + rank) if rank <= (k or math.inf) else 0.0


def ideal_dcg(items, k=None):
    labels = sorted((y for _, y in items), reverse=True)
    return sum(gain(label) * discount(rank, k) for rank, label in enumerate(labels, start=1))


def ranks(items):
    """Return the rank of each item, from 1; among equal scores the lower label stands higher."""
    order = sorted(range(len(items)), key=lambda i: (-items[i][0], items[i][1]))
    return [order.index(i) + 1 for i in range(len(items))]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def approxndcg(scores, labels, alpha=1.0):
    items = without_padding(scores, labels)
    if not preferred(items):
        return None
    total = 0.0
    for i, (score_i, label_i) in enumerate(items):
        rank = 1.0
        for j, (score_j, _) in enumerate(items):
            if j != i:
                rank += sigmoid(alpha * (score_j - score_i))
        total -= gain(label_i) * discount(rank)
    return total / ideal_dcg(items)


def bce(scores, labels):
    relevant, others = kinds(without_padding(scores, labels))
    if not relevant or not others:
        return None
    total = 0.0
    for score in relevant:
        total -= math.log(sigmoid(score))
    for score in others:
        total -= math.log(1 - sigmoid(score))
    return total / len(relevant + others)


def hinge(scores, labels, margin=1.0):
    terms = [max(0.0, margin - (s_i - s_j)) for s_i, s_j in preferred(without_padding(scores, labels))]
    return sum(terms) / len(terms) if terms else None


def lambdaloss(scores, labels, weighting="ndcg2++", mu=10.0, sigma=1.0, k=None):
    items = without_padding(scores, labels)
    if not preferred(items):
        return None
    rank, ideal, total = ranks(items), ideal_dcg(items, k), 0.0
    for i, (score_i, label_i) in enumerate(items):
        for j, (score_j, label_j) in enumerate(items):
            if i == j or (weighting != "ndcg1" and label_i <= label_j):
                continue
            difference, distance = gain(label_i) - gain(label_j), abs(rank[i] - rank[j])
            counts = min(rank[i], rank[j]) <= (k or math.inf)
            loss1 = counts * gain(label_i) * discount(rank[i])
            loss2 = counts * difference * (discount(distance) - discount(distance + 1))
            swap = difference * abs(discount(rank[i], k) - discount(rank[j], k))
            weight = {"ndcg1": loss1, "ndcg2": loss2, "ndcg2++": mu * loss2 + swap}[weighting]
            total += weight * math.log1p(math.exp(-sigma * (score_i - score_j)))
    return total / ideal


def lambdarank(scores, labels, sigma=1.0, k=None):
    items = without_padding(scores, labels)
    if not preferred(items):
        return None
    rank, total = ranks(items), 0.0
    for i, (score_i, label_i) in enumerate(items):
        for j, (score_j, label_j) in enumerate(items):
            if label_i > label_j:
                swap = (gain(label_i) - gain(label_j)) * abs(discount(rank[i], k) - discount(rank[j], k))
                total += swap * math.log1p(math.exp(-sigma * (score_i - score_j)))
    return total / ideal_dcg(items, k)


def listmle(scores, labels):
    items = without_padding(scores, labels)
    if not preferred(items):
        return None
    total = 0.0
    for score, label in items:
        normaliser = math.exp(score)
        for other, other_label in items:
            if other_label < label:
                normaliser += math.exp(other)
        total -= math.log(math.exp(score) / normaliser)
    return total


def listnet(scores, labels, temperature=1.0):
    items = without_padding(scores, labels)
    if not kinds(items)[0]:
        return None
    total = 0.0
    for score, label in items:
        normaliser = 0.0
        for other, _ in items:
            normaliser += math.exp(other / temperature)
        total -= label / sum(y for _, y in items) * math.log(math.exp(score / temperature) / normaliser)
    return total


def neuralndcg(scores, labels, temperature=1.0, k=None, iterations=50):
    """Matrix by matrix, as the paper has it."""
    items = without_padding(scores, labels)
    if not kinds(items)[0]:
        return None
    s, gains, n = [score for score, _ in items], [gain(label) for _, label in items], len(items)
    matrix = []
    for rank in range(1, n + 1):
        logits = [((n + 1 - 2 * rank) * s[j] - sum(abs(s[j] - other) for other in s)) / temperature for j in range(n)]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        matrix.append([weight / sum(weights) for weight in weights])
    for _ in range(iterations):
        columns = [sum(row[j] for row in matrix) for j in range(n)]
        matrix = [[row[j] / columns[j] for j in range(n)] for row in matrix]
        matrix = [[entry / sum(row) for entry in row] for row in matrix]
    relaxed = 0.0
    for rank, row in enumerate(matrix, start=1):
        relaxed += discount(rank, k) * sum(entry * g for entry, g in zip(row, gains, strict=True))
    return -relaxed / ideal_dcg(items, k)


def ranknet(scores, labels, sigma=1.0):
    pairs = preferred(without_padding(scores, labels))
    terms = [math.log1p(math.exp(-sigma * (s_i - s_j))) for s_i, s_j in pairs]
    return sum(terms) / len(terms) if terms else None


def smoothap(scores, labels, temperature=1.0):
    items = without_padding(scores, labels)
    if not all(kinds(items)):
        return None
    precisions = []
    for i, (score_i, label_i) in enumerate(items):
        if label_i > 0:
            rank = rank_in_relevant = 1.0
            for j, (score_j, label_j) in enumerate(items):
                if j != i:
                    above = sigmoid((score_j - score_i) / temperature)
                    rank += above
                    rank_in_relevant += above * (label_j > 0)
            precisions.append(rank_in_relevant / rank)
    return 1 - sum(precisions) / len(precisions)


def softmax(scores, labels, temperature=1.0):
    relevant, others = kinds(without_padding(scores, labels))
    if not relevant or not others:
        return None
    total = 0.0
    for score in relevant:
        normaliser = math.exp(score / temperature)
        for other in others:
            normaliser += math.exp(other / temperature)
        total -= math.log(math.exp(score / temperature) / normaliser)
    return total / len(relevant)


def grid(**values):
    """Return all combinations of the values as settings."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


# Loss: its reference, and the settings it is tried with beside the defaults.
REFERENCES = {
    "approxndcg": (approxndcg, grid(alpha=[0.3, 10.0])),
    "bce": (bce, []),
    "hinge": (hinge, grid(margin=[0.2, 5])),
    "lambdaloss": (
        lambdaloss,
        grid(weighting=["ndcg2++", "ndcg2", "ndcg1"], k=[None, 1, 2, 10])
        + grid(weighting=["ndcg2++", "ndcg2", "ndcg1"], k=[None, 1, 2, 10], sigma=[2.5], mu=[0.5]),
    ),
    "lambdarank": (lambdarank, grid(sigma=[1.0, 2.5], k=[None, 1, 2, 10])),
    "listmle": (listmle, []),
    "listnet": (listnet, grid(temperature=[0.25])),
    "neuralndcg": (neuralndcg, grid(temperature=[1.0, 0.3], k=[None, 1, 2, 10]) + grid(iterations=[1, 3])),
    "ranknet": (ranknet, grid(sigma=[2.5])),
    "smoothap": (smoothap, grid(temperature=[0.05, 0.2])),
    "softmax": (softmax, grid(temperature=[0.25])),
}
