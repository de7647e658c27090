"""Bad head files: bytes of good ones changed, and safetensors files that are in order but hold no proper head."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ltpost import FeatureSet, LinearHead, LtpostError, RescaledHead, evaluate, load_head
from ltpost.heads import (
    AggregatedHead,
    CausalNormHead,
    ChangedHead,
    GatedHead,
    Head,
    InstanceWeightedHead,
    JointHead,
    MixedHead,
    NeighbourHead,
    NormalizedMeanHead,
    PairwiseHead,
    PrototypeHead,
    RoutedHead,
    SummedHead,
)
from ltpost.heads.aggregated import ExpertHead
from ltpost.heads.routed import Gates
from tests.fuzz.case import Case, spoil

N, D, C = 12, 6, 4
WIDTH = D // 2  # of one of two experts
ENTRY = "ltpost-head"


@functools.cache
def rows() -> FeatureSet:
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(C, D)), rng.normal(size=C))
    features = rng.normal(size=(N, D)).astype(np.float32)
    found = FeatureSet(
        features, np.arange(N) % C, head=head, logits=head.logits(features), split="val",
        layers={"early": rng.normal(size=(N, D)).astype(np.float32)}, attrs={"experts": 2},
    )  # fmt: skip
    shown = np.repeat(features, 2, axis=0) + rng.normal(size=(2 * N, D)).astype(np.float32)
    found.view_rows = FeatureSet(
        shown, np.repeat(found.labels, 2), head=head, attrs={"experts": 2}, split="val",
        sample=np.repeat(np.arange(N), 2), view=np.tile([0, 1], N),
    )  # fmt: skip
    return found


@functools.cache
def good_files() -> list[bytes]:
    rng = np.random.default_rng(1)
    scale, offset, joint = rng.uniform(0.5, 2, C), rng.normal(size=C), rows().head
    assert joint is not None
    info = {"method": "tnorm", "params": {"tau": 0.5}, "signature": "method:tnorm|tau:0.5"}
    heads: list[Head] = [
        LinearHead(rng.normal(size=(C, D)), rng.normal(size=C), info=info),
        LinearHead(rng.normal(size=(C, D))),
        RescaledHead(joint, scale, offset, info=info),
        RescaledHead(JointHead(C), scale, offset, info=info),
        RescaledHead(LinearHead(rng.normal(size=(C, D))), scale),
        NormalizedMeanHead(rng.normal(size=(C, D)), rng.normal(size=D), info),
    ]

    def layer(width: int = D) -> LinearHead:
        return LinearHead(rng.normal(size=(C, width)), rng.normal(size=C))

    def expert(number: int) -> ExpertHead:
        return ExpertHead(layer(WIDTH), number)

    unit = rng.normal(size=(9, D))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    gates = Gates(((rng.normal(size=(2, WIDTH)), rng.normal(size=2)),), rng.normal(size=5), 0.1)
    prototypes = PrototypeHead(rng.normal(size=(C, D)), rng.uniform(0.5, 2, D))
    heads += [
        GatedHead(layer(), scale, offset, rng.normal(size=D), 0.3, info=info),
        GatedHead(layer(), scale, offset, rng.normal(size=D), unit=True),
        AggregatedHead([expert(0), expert(1)], rng.normal(size=(2, C)), offset),
        AggregatedHead([expert(1), expert(0)], rng.normal(size=2)),
        SummedHead([ChangedHead(layer(), source="early"), prototypes], [0.5, 2.0]),
        ChangedHead(layer(), power=0.5, unit=True),
        NeighbourHead(unit, np.arange(9) % C, scale, 4),
        prototypes,
        MixedHead(prototypes, RescaledHead(layer(), scale), 0.3),
        PairwiseHead(layer(), scale),
        CausalNormHead(rng.normal(size=(C, D)), rng.normal(size=D), 1.5),
        InstanceWeightedHead([expert(0), expert(1)], strength=0.5),
        RoutedHead([expert(0), expert(1)], gates, 3),
    ]
    with tempfile.TemporaryDirectory() as folder:
        return [head.save(Path(folder) / "head").read_bytes() for head in heads]


def parsed(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def make(rng: np.random.Generator, folder: Path) -> Case:
    path = folder / "head.safetensors"
    content = good_files()[int(rng.integers(len(good_files())))]
    length = int.from_bytes(content[:8], "little")
    way = rng.random()
    if way < 0.4:  # the header is where most can go wrong
        content, how = spoil(content, rng, 0, 8 + length)
    elif way < 0.5:
        content, how = spoil(content, rng)
    elif way < 0.75:
        header, data = parsed(content)
        spec = json.loads(header["__metadata__"][ENTRY])
        how = change_value(spec, rng)
        header["__metadata__"][ENTRY] = json.dumps(spec) if rng.random() < 0.95 else "[" * 100_000
        content = joined(header, data)
    else:
        header, data = parsed(content)
        how = change_tensor(header, rng)
        if rng.random() < 0.3:
            data = change_numbers(data, rng)
            how = "numbers"
        content = joined(header, data)
    path.write_bytes(content)
    return Case(path, how)


_VALUES: list[Any] = [
    None, 0, -1, 3, 2**70, 1e308, float("nan"), "", "linear", "joint", "rescaled", "normalized-mean", "é", [], {}, [1],
    "gated", "aggregated", "summed", "changed", "neighbours", "prototypes", "mixed", "pairwise", "causal-norm",
    "instance-weighted", "routed", "expert", "early", "logits", 0.5, 1, [0.5, "2"], False,
    {"kind": "joint", "num_classes": 4, "fingerprint": None}, {"kind": "linear"}, True, "x" * 1000,
]  # fmt: skip


def change_value(spec: Any, rng: np.random.Generator) -> str:
    """Give one entry of nested dictionaries another value, or take it away."""
    node = spec
    while True:
        key = str(rng.choice([*node]))
        inner = node[key]
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            inner = inner[int(rng.integers(len(inner)))]
        if isinstance(inner, dict) and inner and rng.random() < 0.7:
            node = inner
            continue
        if rng.random() < 0.2:
            del node[key]
        elif rng.random() < 0.1:
            deep: Any = {"kind": "linear"}
            for _ in range(int(rng.choice([3, 500, 5000]))):
                deep = {"kind": "rescaled", "base": deep}
            try:
                json.dumps(deep)
            except RecursionError:
                return "metadata"
            node[key] = deep
        else:
            node[key] = _VALUES[int(rng.integers(len(_VALUES)))]
        return "metadata"


def change_tensor(header: dict[str, Any], rng: np.random.Generator) -> str:
    """Another name, type or shape for one tensor."""
    name = str(rng.choice([key for key in header if key != "__metadata__"]))
    entry = header[name]
    way = int(rng.integers(5))
    if way == 0:
        header[
            str(rng.choice(["weight", "bias", "scale", "offset", "means", "gate_bias", "0.weight", "1.bias", "x"]))
        ] = header.pop(name)
        return "tensor name"
    if way == 1:
        kinds = ["F16", "BF16", "F64", "I32", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "I8", "X"]
        entry["dtype"] = str(rng.choice(kinds))
        size = {"F16": 2, "BF16": 2, "F64": 8, "I64": 8, "C64": 8, "U8": 1, "BOOL": 1, "I8": 1}.get(entry["dtype"], 4)
        begin, end = entry["data_offsets"]
        if (end - begin) % size == 0 and rng.random() < 0.8:
            entry["shape"] = [entry["shape"][0], -1] if rng.random() < 0.05 else [(end - begin) // size]
            if (end - begin) // size % C == 0:
                entry["shape"] = [C, (end - begin) // size // C]
        return "tensor type"
    if way == 2:
        shapes = [[], [0], [C], [D, C], [1, C, D], [2**40, 2**40], [C * D], [0, D], [C, 0]]
        entry["shape"] = shapes[int(rng.integers(len(shapes)))]
        return "tensor shape"
    if way == 3:
        offsets = [[0, 0], [0, 2**63], [-1, 4], [8, 4], [0, 4], [0, 4.5], ["a", 4], [4], [0, 1 << 70]]
        entry["data_offsets"] = offsets[int(rng.integers(len(offsets)))]
        return "tensor place"
    del header[name]
    return "tensor missing"


def change_numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """Some float32 numbers become NaN, infinite, tiny or huge."""
    values = np.frombuffer(data[: len(data) // 4 * 4], np.float32).copy()
    some = rng.integers(len(values), size=int(rng.choice([1, 3, len(values)])))
    values[some] = rng.choice(np.array([np.nan, np.inf, -np.inf, 0, 1e-45, 3e38, -3e38, 1e20, -0.0], np.float32))
    return values.tobytes()


def check(case: Case) -> str:
    try:
        head = load_head(case.path)
        result = evaluate(head, rows())
        repr(head)
        copy = load_head(head.save(case.path.with_name("copy")))
        again = evaluate(copy, rows())
    except LtpostError as error:
        return "refused" if str(error).count("\n") == 0 else "wrong: more than one line"
    if result.figures.as_dict() != again.figures.as_dict():
        return "wrong: the copy gives other figures"
    return wrong_values(case.path, head)


def wrong_values(path: Path, head: Any) -> str:
    """Logits from what the file says, read with no library, against those of the head."""
    header, data = parsed(path.read_bytes())
    kinds = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I32": np.int32}
    tensors = {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }
    for name, tensor in tensors.items():
        if not np.isfinite(tensor.astype(np.float64)).all():
            return f"wrong: '{name}' is not finite"
    entry = (header.get("__metadata__") or {}).get(ENTRY)
    spec = {"kind": "linear"} if entry is None else json.loads(entry)["spec"]
    with np.errstate(all="ignore"):
        expected = slow_logits(spec, {name: tensor.astype(np.float64) for name, tensor in tensors.items()})
        got = np.asarray(head.reader(rows())(slice(0, N)), np.float64)
        if expected is None or not np.isfinite(expected).all() or np.abs(expected).max() > 1e35:
            return "ok"
        size = max(float(np.abs(expected).max()), max(float(np.abs(t).max()) for t in tensors.values()) * 10)
        same = np.allclose(got, expected, rtol=1e-3, atol=1e-4 * size)
    return "ok" if same else "wrong: logits"


def slow_logits(spec: Any, tensors: dict[str, Any]) -> Any:
    """What the head stands for, by the words of its module; None where a common factor is allowed."""
    features, joint = rows().features.astype(np.float64), np.asarray(rows().logits, np.float64)
    if spec["kind"] == "linear":
        return features @ tensors["weight"].T + tensors.get("bias", 0.0)
    if spec["kind"] == "joint":
        return joint
    if spec["kind"] == "rescaled":
        base = spec["base"]
        known = rows().head
        assert known is not None
        if base["kind"] == "joint" and base["fingerprint"] not in (None, known.fingerprint):
            if "weight" not in tensors:
                return None
            return features @ tensors["weight"].T + tensors.get("bias", 0.0)
        scale = tensors.get("scale", np.ones(C))
        if not 1e-19 < np.abs(scale).max() < 1e19:
            return None
        below = slow_logits(base, tensors)
        return None if below is None else below * scale + tensors.get("offset", 0.0)
    if spec["kind"] in SLOW:
        return SLOW[spec["kind"]](spec, tensors, features)
    query = unit_rows(features - tensors["centre"])
    return -np.square(query[:, None] - tensors["means"]).sum(2)


def unit_rows(values: Any) -> Any:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300)


def below(tensors: dict[str, Any], start: object) -> dict[str, Any]:
    return {name.removeprefix(f"{start}."): x for name, x in tensors.items() if name.startswith(f"{start}.")}


def slow_gated(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    inner = unit_rows(features) if spec["unit"] else features
    z = inner @ tensors["weight"].T + tensors.get("bias", 0.0)
    gate = 1 / (1 + np.exp(-(inner @ tensors["gate"] + tensors["gate_bias"][0])))
    return (1 + gate[:, None] * tensors["alpha"]) * z + gate[:, None] * tensors["beta"]


def slow_changed(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    x = np.asarray(rows().layers[spec["source"]].rows[:], np.float64) if spec["source"] else features
    x = x if spec["power"] == 1 else np.maximum(x, 0) ** spec["power"]
    return (unit_rows(x) if spec["unit"] else x) @ tensors["weight"].T + tensors.get("bias", 0.0)


def slow_neighbours(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    near = unit_rows(features) @ tensors["rows"].astype(np.float16).astype(np.float64).T
    scores = np.zeros((N, len(tensors["votes"])))
    for row, values in enumerate(near):
        if len(np.unique(values.astype(np.float32))) < len(values):  # ties have no order
            return None
        for one in np.argsort(-values, kind="stable")[: spec["k"]]:
            label = int(tensors["labels"][one])
            scores[row, label] += tensors["votes"][label] * np.exp((values[one] - 1) / spec["temperature"])
    return scores


def slow_prototypes(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    distance = (features[:, None] - tensors["prototypes"]) / tensors["temperature"]
    return -0.5 * np.sqrt(np.square(distance).sum(2))


def slow_causal_norm(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    total, size = 0.0, D // spec["parts"]
    for start in range(0, D, size):
        x, w, e = (part[..., start : start + size] for part in (features, tensors["weight"], tensors["embed"]))
        x, e = unit_rows(x), unit_rows(e[None])[0]
        x = x - spec["alpha"] * (x @ e)[:, None] * e
        total = total + x @ (w / (np.linalg.norm(w, axis=1, keepdims=True) + spec["gamma"])).T
    return total * spec["scale"] / spec["parts"]


def slow_expert(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    if spec["head"]["kind"] != "linear":
        return None
    mine = features[:, spec["number"] * WIDTH : (spec["number"] + 1) * WIDTH]
    return mine @ tensors["weight"].T + tensors.get("bias", 0.0)


def experts_of(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    found = [slow_expert(one, below(tensors, place), features) for place, one in enumerate(spec["experts"])]
    return None if any(z is None for z in found) else found


def slow_aggregated(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    found = experts_of(spec, tensors, features)
    if found is None:
        return None
    return sum(s * z for s, z in zip(tensors["scale"], found, strict=True)) + tensors.get("offset", 0.0)


def slow_routed(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    found = experts_of(spec, tensors, features)
    if found is None or len(found) != 2:
        return None
    first = spec["experts"][0]["number"] * WIDTH
    x = np.maximum(
        unit_rows(features[:, first : first + WIDTH]) @ tensors["gate.0.weight"].T + tensors["gate.0.bias"], 0
    )
    seen = np.concatenate([x, -np.sort(-found[0], axis=1)[:, : spec["top"]]], axis=1)
    score = 1 / (1 + np.exp(-(seen @ tensors["gate.weight"] + tensors["gate.bias"][0])))
    if (np.abs(score - spec["threshold"]) < 1e-4).any():  # float32 may decide otherwise
        return None
    return np.where((score > spec["threshold"])[:, None], (found[0] + found[1]) / 2, found[0])


def slow_pairwise(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    z, a = slow_logits(spec["base"], tensors), tensors["spread"]
    if z is None:
        return None
    classes = len(a)
    rho = np.arccos(-1 / (classes - 1)) if classes > 2 else np.pi / 2
    angle = rho * a[None] / (a[:, None] + a[None])  # of c with c'
    left, right = z[:, :, None] * np.cos(angle.T), z[:, None, :] * np.cos(angle)
    if (np.abs(left - right)[:, ~np.eye(classes, dtype=bool)] < 1e-4 * np.abs(z).max()).any():
        return None
    votes = left > right
    votes[:, np.eye(classes, dtype=bool)] = False
    return votes.sum(2) / classes


def slow_mixed(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    one, two = (slow_logits(spec[part], below(tensors, part)) for part in ("first", "second"))
    return None if one is None or two is None else (1 - spec["weight"]) * one + spec["weight"] * two


def slow_summed(spec: Any, tensors: dict[str, Any], features: Any) -> Any:
    total: Any = 0.0
    for number, one in enumerate(spec["heads"]):
        z = slow_logits(one, below(tensors, number))
        if z is None:
            return None
        z = z - z.max(axis=1, keepdims=True)
        total = total + spec["weights"][number] * (z - np.log(np.exp(z).sum(axis=1, keepdims=True)))
    return total


#: kind to what a head of it stands for; the weights of "instance-weighted" come from a search, which has no formula
SLOW: dict[str, Any] = {
    "gated": slow_gated,
    "changed": slow_changed,
    "neighbours": slow_neighbours,
    "prototypes": slow_prototypes,
    "causal-norm": slow_causal_norm,
    "expert": slow_expert,
    "aggregated": slow_aggregated,
    "routed": slow_routed,
    "pairwise": slow_pairwise,
    "mixed": slow_mixed,
    "summed": slow_summed,
    "instance-weighted": lambda *_: None,
}
