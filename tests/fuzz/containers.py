"""Containers of checkpoints with something odd in them, and pickles that want to run code or break numpy and torch."""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

MARK = "code-was-run"  # the file that a hostile pickle writes


def _places(container: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys of everything in nested dictionaries."""
    found: list[tuple[Any, ...]] = []
    for key, value in container.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += _places(value, (*path, key))
    return found


def _some_place(container: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """A dictionary in the container and one of its keys; tensors and the keys that lead to them come most often."""
    places = [place for place in _places(container) if "optimizer" not in place or rng.random() < 0.1]
    place = places[int(rng.integers(len(places)))]
    if rng.random() < 0.4:
        place = place[:1]
    for key in place[:-1]:
        container = container[key]
    return container, place[-1]


def _copied(container: Any) -> Any:
    if isinstance(container, dict):
        return type(container)((key, _copied(value)) for key, value in container.items())
    return container


def _some_tensor(container: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    while True:
        inner, key = _some_place(container, rng)
        if isinstance(inner[key], torch.Tensor):
            return inner, key


def _odd_values() -> list[Any]:
    nested: Any = {}
    for _ in range(50):
        nested = {"state_dict": nested}
    return [
        5, None, "text", b"bytes", True, 1.5, float("nan"), [], {}, (), [torch.ones(2, 2)], {0: torch.ones(2)},
        torch.tensor(3.0), torch.zeros(0), torch.ones(3, 5), np.ones((3, 5), np.float32), np.float64(2), nested,
        OrderedDict(), {"weight": torch.ones(3, 5)}, {"fc.weight": 5}, {"": torch.ones(1)}, 2**80, {1, 2},
        torch.nn.Parameter(torch.ones(3, 5)), torch.Size([3, 5]), torch.float32, {("fc", "weight"): torch.ones(3, 5)},
    ]  # fmt: skip


def odd_value(container: Any, rng: np.random.Generator) -> Any:
    container = _copied(container)
    inner, key = _some_place(container, rng)
    values = _odd_values()
    inner[key] = values[int(rng.integers(len(values)))]
    return container


def odd_key(container: Any, rng: np.random.Generator) -> Any:
    container = _copied(container)
    inner, key = _some_place(container, rng)
    keys: list[Any] = [0, -1, 2.5, None, b"fc.weight", ("a", "b"), "", ".weight", "fc", "module.", "é\0", "x" * 3000,
                       "linears.7.weight", "linears.99999999999999999999.weight", "layer1.0.conv1.weight",
                       f"{key}.x", torch.float32, "encoder_q.conv1.weight", "scales"]  # fmt: skip
    inner[keys[int(rng.integers(len(keys)))]] = inner.pop(key)
    return container


def missing(container: Any, rng: np.random.Generator) -> Any:
    container = _copied(container)
    inner, key = _some_place(container, rng)
    del inner[key]
    return container


def not_a_dictionary(container: Any, rng: np.random.Generator) -> Any:
    values = [*_odd_values(), [container], (container,), list(container.items())]
    return values[int(rng.integers(len(values)))]


def odd_tensor(container: Any, rng: np.random.Generator) -> Any:
    container = _copied(container)
    inner, key = _some_tensor(container, rng)
    tensor = inner[key]
    kinds: list[Callable[[], Any]] = [
        lambda: tensor.to_sparse(), lambda: tensor.to(torch.float8_e4m3fn), lambda: tensor.to(torch.float8_e5m2),
        lambda: tensor.to("meta"), lambda: tensor.to(torch.complex64), lambda: tensor.half(), lambda: tensor.double(),
        lambda: tensor.bfloat16(), lambda: tensor.int(), lambda: tensor.bool(), lambda: tensor.to(torch.uint8),
        lambda: tensor.to(torch.uint16),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: tensor.to_sparse_csr() if tensor.ndim == 2 else tensor.to_sparse(),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: tensor.t() if tensor.ndim == 2 else tensor.flip(0), lambda: torch.nn.Parameter(tensor.float()),
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner[key] = kinds[int(rng.integers(len(kinds)))]()
    return container


def odd_shape(container: Any, rng: np.random.Generator) -> Any:
    """Other axes, no rows, and sizes that a few bytes stand for."""
    container = _copied(container)
    inner, key = _some_tensor(container, rng)
    tensor = inner[key]
    shapes: list[Callable[[], Any]] = [
        lambda: tensor[None], lambda: tensor.flatten(), lambda: tensor[:0] if tensor.ndim else tensor,
        lambda: torch.zeros(1).expand(2**40), lambda: torch.zeros(1, 1).expand(2**20, 2**20),
        lambda: torch.zeros(3, 1).expand(3, 5), lambda: torch.zeros(1, 1).expand(3, 5),
        lambda: torch.zeros(0, 2**40), lambda: torch.cat([tensor[None], tensor[None]]), lambda: torch.tensor(1.0),
    ]  # fmt: skip
    inner[key] = shapes[int(rng.integers(len(shapes)))]()
    return container


def odd_numbers(container: Any, rng: np.random.Generator) -> Any:
    container = _copied(container)
    inner, key = _some_tensor(container, rng)
    tensor = inner[key].clone()
    if not tensor.is_floating_point():
        return container
    value = float(rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45, 0, 1e20, -1]))
    if rng.random() < 0.3:
        tensor, value = tensor.double(), 1e300
    if rng.random() < 0.5 or tensor.ndim == 0:
        tensor = torch.full_like(tensor, value)
    else:
        tensor.view(-1)[int(rng.integers(tensor.numel()))] = value
    inner[key] = tensor
    return container


def itself(container: Any, rng: np.random.Generator) -> Any:
    container = _copied(container)
    inner, key = _some_place(container, rng)
    inner[key if rng.random() < 0.5 else "again"] = container
    return container


def many_keys(container: Any, rng: np.random.Generator) -> Any:
    container = _copied(container)
    inner, _ = _some_place(container, rng)
    inner.update({f"linears.{k}.weight" if rng.random() < 0.1 else f"k{k}": torch.ones(1) for k in range(300)})
    return container


CHANGES: list[Callable[[Any, np.random.Generator], Any]] = [
    odd_value, odd_value, odd_key, missing, not_a_dictionary, odd_tensor, odd_tensor, odd_shape, odd_numbers, itself,
    many_keys,
]  # fmt: skip


# -- pickles: each gives the bytes and whether they have to be refused -------------------------------------------------


class Call:
    """Pickled as a call of something, then a state."""

    def __init__(self, function: Any, *args: Any, state: Any = None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts


def runs_code(rng: np.random.Generator, folder: Path) -> tuple[bytes, bool]:
    """Names of modules that do something, called in one of the ways that a pickle has."""
    mark = str(folder / MARK)
    text = f"__import__('pathlib').Path({mark!r}).touch()"
    names = [
        ("os", "system", f"touch {mark}"), ("posix", "system", f"touch {mark}"), ("builtins", "eval", text),
        ("builtins", "exec", text), ("subprocess", "getoutput", f"touch {mark}"), ("pathlib", "Path.touch", mark),
        ("torch", "hub.os.system", f"touch {mark}"), ("torch.serialization", "os.system", f"touch {mark}"),
        ("numpy", "core.os.system", f"touch {mark}"), ("torch.jit", "load", mark), ("torch", "load", mark),
        ("numpy", "load", mark), ("argparse", "Namespace.__init__", mark), ("timeit", "timeit", text),
        ("collections", "OrderedDict.__reduce__", mark), ("torch._utils", "_import_dotted_name", "os.system"),
    ]  # fmt: skip
    module, name, argument = names[int(rng.integers(len(names)))]
    way = int(rng.integers(4))
    if way == 0:
        call = b"c%s\n%s\n" % (module.encode(), name.encode())
    else:
        call = b"\x8c%c%s\x8c%c%s\x93" % (len(module), module.encode(), len(name), name.encode())
    word = b"X" + len(argument).to_bytes(4, "little") + argument.encode()
    done = {0: b"(%s\x85R" % word, 1: b"%s\x85R" % word, 2: b"%s\x85\x81" % word, 3: b"%s\x85R}b" % word}[way]
    done = done.replace(b"(", b"", 1) if way == 0 else done
    return b"\x80\x02}X\x0a\x00\x00\x00state_dict" + call + done + b"s.", True


def breaks_numpy(rng: np.random.Generator, folder: Path) -> tuple[bytes, bool]:
    """Arrays whose type, shape and bytes contradict each other."""
    fields = {"a": (np.dtype("O"), 0)}
    types: list[Any] = [
        Call(np.dtype, "V8", False, True, state=(3, "|", None, ("a",), fields, 8, 1, 0)),
        Call(np.dtype, "f8", False, True, state=(3, "|", (np.dtype("f8"), (2**40,)), None, None, 8, 1, 0)),
        Call(np.dtype, "f8", False, True, state=(3, "<", None, None, None, 2**30, 1, 0)),
        Call(np.dtype, "O", False, True), Call(np.dtype, "U1000000000"), np.dtype("f4"), np.dtype(">f8"), 5, "f4",
    ]  # fmt: skip
    kind = types[int(rng.integers(len(types)))]
    shapes: list[Any] = [(2,), (-1,), (2**62,), (2**40, 2**40), (0,), (), "x", (2.5,), (True, 2)]
    shape = shapes[int(rng.integers(len(shapes)))]
    bytes_: list[Any] = [b"\x41" * 16, b"", b"\x41" * 8, "x", None, [1, 2], b"\x41" * 2**16]
    content = bytes_[int(rng.integers(len(bytes_)))]
    reconstruct = np.zeros(0).__reduce__()[0]
    array: Any = Call(reconstruct, np.ndarray, (0,), b"b", state=(1, shape, kind, False, content))
    if rng.random() < 0.3:
        array = Call(np.float64(0).__reduce__()[0], kind, content)
    elif rng.random() < 0.2:
        array = Call(np.ndarray, (2**40,), state=(1, shape, kind, False, content))
    return pickle.dumps({"state_dict": {"fc.weight": array}, "x": array}, protocol=2), True


def breaks_torch(rng: np.random.Generator, folder: Path) -> tuple[bytes, bool]:
    """The functions that torch allows, with arguments that fit nothing."""
    u = torch._utils
    functions = [
        u._rebuild_tensor, u._rebuild_tensor_v2, u._rebuild_parameter, u._rebuild_parameter_with_state,
        u._rebuild_qtensor, u._rebuild_sparse_tensor, u._rebuild_meta_tensor_no_storage, u._rebuild_nested_tensor,
        u._rebuild_wrapper_subclass, u._rebuild_device_tensor_from_numpy, u._rebuild_device_tensor_from_cpu_tensor,
        torch.Size, torch.device, torch.Tensor, OrderedDict, torch.storage.UntypedStorage, set, bytearray,
    ]  # fmt: skip
    pool: list[Any] = [
        (2**40, 2**40), (-1, 5), 2**62, -1, torch.float32, None, OrderedDict(), "cpu", torch.strided, (), [1], {},
        torch.sparse_coo, (5, 1), "meta", "x", b"x", True, 1e308,
    ]  # fmt: skip
    function = functions[int(rng.integers(len(functions)))]
    args = [pool[int(rng.integers(len(pool)))] for _ in range(int(rng.integers(0, 8)))]
    call = Call(function, *args, state=pool[int(rng.integers(len(pool)))] if rng.random() < 0.2 else None)
    return pickle.dumps({"state_dict": {"fc.weight": call}}, protocol=2), True


def odd_storages(rng: np.random.Generator, folder: Path) -> tuple[bytes, bool]:
    """A persistent id for storages that are not there, too small, or no storages."""
    keys: list[Any] = ["0", "99", "../../x", "0\0", 5, None]
    kinds: list[Any] = [torch.FloatStorage, torch.LongStorage, torch.BoolStorage, "x", None]
    sizes: list[Any] = [1, 60, 2**60, -1, "x"]
    key, kind, size = (pool[int(rng.integers(len(pool)))] for pool in (keys, kinds, sizes))
    shape, stride = [((5, 12), (12, 1)), ((2**40,), (1,)), ((5,), (2**40,)), ((5,), (-1,)), ((2, 2), (0, 0))][
        int(rng.integers(5))
    ]
    offset = int(rng.choice([0, 1, -1, 2**40]))

    class Pickler(pickle._Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", kind, key, "cpu", size) if value is MARK else None

    import io

    stream = io.BytesIO()
    call = Call(torch._utils._rebuild_tensor_v2, MARK, offset, shape, stride, False, OrderedDict())
    Pickler(stream, 2).dump({"state_dict": {"stem.weight": call}})
    return stream.getvalue(), True


def too_deep(rng: np.random.Generator, folder: Path) -> tuple[bytes, bool]:
    """Nested as deep as no reader follows, and references to what is not there."""
    pieces = [b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", b"\x80\x02h\xff.",
              b"\x80\x02" + b"(" * 10**5 + b".",
              b"\x80\x02}" + b"2" * 1000 + b"u.", b"\x80\x02X\xff\xff\xff\x7fa.",
              b"\x80\x02\x8a\x08" + b"\xff" * 8 + b".", b"\x80\x02U\x03abcQ.", b"\x80\x02P1\n.",
              b"\x80\x02\x82\x01."]  # fmt: skip
    return pieces[int(rng.integers(len(pieces)))], True


HOSTILE = [runs_code, breaks_numpy, breaks_torch, odd_storages, too_deep]
