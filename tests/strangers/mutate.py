"""Change files as a careless tool, a broken disk or somebody with bad intentions would. All by a seeded generator."""

import copy
import json
import math
import random
import struct
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load, save

DEEP, LONG, HIDDEN = "deep-placeholder", "long-placeholder", "twin-placeholder"
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**53, 2**63, 2**64, 10**12, -(10**12), 10**400, -(10**4000), LONG, 0.5,
    -0.0, 1e308, 1e-320, math.nan, math.inf, -math.inf, "", " ", "x", "0", "1e3", "nan", "../../x", "/x/y", "~/x",
    "C:\\x", "a\0b", "\ud800", "é\u202e\n| a |", "a" * 100_000, "__class__", "__init__", "__reduce__",
    "forward", "to", "os.system",
    "{{ 7 * 7 }}", "{% raw %}", "!!python/object/apply:os.system [true]", "<script>", "---", "\n---\n", [], {}, [[]],
    [None], {"": None}, {"a": 1}, {"__class__": "x"}, [0] * 1000, DEEP, [DEEP], {"a": DEEP},
]  # fmt: skip
NAMES = ["", "__class__", "__dict__", "self", "cls", "x" * 5000, "../x", "a.b", "a\0b", "\ud800", "quant_method", "0"]
YAML_LINES = [
    "x: !!python/object/apply:os.system ['true']", "x: !!python/name:os.system", "x: !!python/module:os",
    "x: !!python/object/new:os.system ['true']", "x: !!timestamp nonsense", "x: !!bool nonsense", "x: !!int ''",
    "x: !!int nonsense", "x: !!float nonsense", "x: !!binary '???'", "x: !!set {a, b}", "x: !!omap [a: 1]",
    "x: !!null x", "x: !!str {a: b}", "x: !!map [1]", "x: !!seq {a: 1}", "x: !unknown 1", "x: *nothing", "x: &a [*a]",
    "? [a, b]\n: 1", "? {a: b}\n: 1", "? &k {*k : 1}\n: 1", "---\na: 1", "...", "%YAML 9.9\n---", "\ta: 1",
    "x: 2024-99-99",
    "x: 2024-02-30T25:00:00Z", "x: 1:99999:99999", "x: 0x" + "f" * 9000, "x: 0b" + "1" * 9000, "x: " + "9" * 5000,
    "x: 1e999", "x: .inf", "x: .nan", "x: 1_000", "x: 0o9", "<<: 1", "<<: [1]", "<<: {a: 1}", "=: 1", "x: =",
    "x: '\\x00'", 'x: "\\U0010FFFF"', 'x: "\\ud800"', "a: 1\na: 2", "x: |\n  text", "x: >-\n  text", "- a", "a",
    "[" * 3000, "x: " + "[" * 400 + "]" * 400, "x: " + "{a: " * 400 + "1" + "}" * 400, "# comment", "\ufeff",
    "a: &a [x, x]\n" + "\n".join(f"b{n}: &b{n} [{f'*b{n - 1}, ' * 9 if n else '*a, '}]" for n in range(12)),
    "a: &a {x: 1}\n" + "\n".join(f"b{n}: &b{n} {{<<: [{f'*b{n - 1}, ' * 9 if n else '*a, '}]}}" for n in range(12)),
]  # fmt: skip
DTYPES = ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL", "F8_E5M2",
          "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "C64", "f32", "", "X", None, 5]  # fmt: skip
TORCH_DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
                torch.complex64, torch.float8_e4m3fn, torch.uint16]  # fmt: skip
SIZES = [0, 1, -1, 2, 3, 2**31, 2**32, 2**62, 2**63, 2**64, 10**12, 10**30, 1.5, "2", None, True]


def mutate(path: Path, rng: random.Random) -> None:
    """Change one file in place, in a way that goes with its kind, or in its bytes."""
    data = path.read_bytes()
    kinds = {
        ".json": change_json,
        ".jsonl": change_json_lines,
        ".yaml": change_yaml,
        ".md": change_card,
        ".safetensors": change_safetensors,
        ".csv": change_table,
    }
    change = kinds[path.suffix] if rng.random() < 0.85 else change_bytes
    path.write_bytes(change(data, rng))


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, splice, repeat."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        if not changed:
            return b"\0"
        at = rng.randrange(len(changed))
        end = min(len(changed), at + rng.choice([1, 4, 50, 1000]))
        kind = rng.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:end] = rng.randbytes(end - at)
        elif kind == 2:
            del changed[at:end]
        elif kind == 3:
            changed[at:at] = changed[at:end]
        elif kind == 4:
            changed[at:at] = rng.choice([b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"}", b"[[", b",", b"\n", b"1e999"])
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def change_json(data: bytes, rng: random.Random) -> bytes:
    """Change the structure of a JSON file, one to three times."""
    values = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        values = change_tree(values, rng)
    return _json_text(values, rng).encode("utf-8", "surrogatepass")


def change_json_lines(data: bytes, rng: random.Random) -> bytes:
    """Change one line of a JSON lines file."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = change_json(lines[at], rng)
    return b"\n".join(lines)


def change_yaml(data: bytes, rng: random.Random) -> bytes:
    """Change the structure of a YAML file, or put a line into it that YAML reads in a way of its own."""
    text = data.decode()
    if rng.random() < 0.6:
        values = yaml.safe_load(text)
        for _ in range(rng.choice([1, 1, 2, 3])):
            values = change_tree(values, rng)
        if rng.random() < 0.5:
            return _json_text(values, rng).encode("utf-8", "surrogatepass")
        return yaml.safe_dump(_without_surrogates(values), allow_unicode=True).replace(DEEP, "[" * 3000).encode()
    lines = text.split("\n")
    for _ in range(rng.choice([1, 1, 2])):
        line = rng.choice(YAML_LINES)
        at = rng.randrange(len(lines) + 1)
        if rng.random() < 0.3 and ": " in line and "\n" not in line:  # the value of an entry that is there
            at = rng.randrange(len(lines))
            lines[at] = lines[at].partition(":")[0] + ":" + line.partition(":")[2]
        else:
            lines.insert(at, line)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def change_card(data: bytes, rng: random.Random) -> bytes:
    """Change the header of a model card."""
    _, header, body = data.split(b"---\n", 2)
    return b"---\n" + change_yaml(header, rng) + b"\n---\n" + body


def change_table(data: bytes, rng: random.Random) -> bytes:
    """Change fields of a CSV file."""
    rows = [line.split(",") for line in data.decode().split("\n")]
    for _ in range(rng.choice([1, 1, 2, 20])):
        row = rng.choice(rows)
        fields = [
            "",
            "nan",
            "inf",
            "1e999",
            "x",
            '"',
            '"a',
            "0x1",
            "9" * 400,
            "True",
            "1+2j",
            "2024-01-01",
            "\0",
            "é",
            "-",
        ]
        kind = rng.randrange(5)
        if kind == 0 and row:
            row[rng.randrange(len(row))] = rng.choice(fields)
        elif kind == 1:
            row.append(rng.choice(fields))
        elif kind == 2 and row:
            row.pop()
        elif kind == 3:
            rows.insert(rng.randrange(len(rows)), list(rng.choice(rows)))
        else:
            column, value = rng.randrange(3), rng.choice(fields)
            for other in rows[1:]:
                if len(other) > column:
                    other[column] = value
    return "\n".join(",".join(row) for row in rows).encode()


def change_tree(tree: Any, rng: random.Random) -> Any:
    """A copy of a JSON tree with one thing changed."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places or rng.random() < 0.01:
        return copy.deepcopy(rng.choice(VALUES))
    # An even choice among places would nearly always fall into the longest list.
    depth = rng.randrange(1 + max(depth for depth, _, _ in places))
    _, holder, key = rng.choice([place for place in places if place[0] == depth])
    kind, old = rng.randrange(10), holder[key]
    if kind < 4:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind < 6:
        holder[key] = _near(old, rng)
    elif kind == 6:
        del holder[key]
    elif kind == 7:
        _, other, place = rng.choice(places)
        holder[key] = copy.deepcopy(other[place]) if holder is not other else old
    elif isinstance(holder, dict):
        names = [*NAMES, *(str(place) for _, _, place in places)]
        name = rng.choice(names)
        if kind == 8:
            holder[name] = holder.pop(key)
        else:
            holder[name if rng.random() < 0.7 else f"{key}{HIDDEN}"] = copy.deepcopy(rng.choice([old, *VALUES]))
    elif kind == 8:
        rng.shuffle(holder)
    else:
        holder.insert(key, copy.deepcopy(old))
    return tree


def change_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Change header, tensors or the place of the data."""
    if rng.random() < 0.4:
        return _other_tensors(data, rng)
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(rng.choice([1, 1, 2])):
        names = [name for name in header if name != "__metadata__"]
        if not names:
            break
        name = rng.choice(names)
        entry = header[name]
        kind = rng.randrange(9)
        if not isinstance(entry, dict) or kind == 0:
            header = change_tree(header, rng)
        elif kind == 1:
            entry["dtype"] = rng.choice(DTYPES)
        elif kind == 2 and isinstance(entry.get("shape"), list):
            shape = entry["shape"]
            shape[rng.randrange(len(shape)) if shape else slice(0, 0)] = rng.choice(SIZES) if shape else [0]
        elif kind == 3:
            entry["shape"] = rng.choice([[2**32, 2**32], [2**63, 2], [0, 2**62], [], [1] * 100, [2**31] * 3, "8", {}])
        elif kind == 4:
            entry["data_offsets"] = rng.choice(
                [[0, 0], [-8, 0], [8, 0], [0, 2**64], [2**63, 2**63 + 4], [0], "x", None]
            )
        elif kind == 5:
            start, end = entry.get("data_offsets") or [0, 0]
            before, after = rng.choice([(-4, -4), (4, 4), (0, 4), (-4, 0), (1, 1)])
            entry["data_offsets"] = [start + before, end + after]
        elif kind == 6:
            header[rng.choice([*NAMES, *names, f"{name}x"])] = header.pop(name)
        elif kind == 7:
            header[f"{name}{HIDDEN}"] = copy.deepcopy(entry)
        else:
            header["__metadata__"] = rng.choice([None, {}, [], {"format": "tf"}, {"format": 1}, {"a": "b" * 100_000}])
    text = _json_text(header, rng).encode("utf-8", "surrogatepass")
    length = len(text) if rng.random() < 0.8 else rng.choice([0, 1, len(text) - 1, len(text) + 8, 2**24, 2**40, 2**63])
    return struct.pack("<Q", length) + text + (body if rng.random() < 0.9 else body[: rng.randrange(len(body) + 1)])


def _other_tensors(data: bytes, rng: random.Random) -> bytes:
    """A sound file with other tensors in it."""
    tensors = load(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not tensors:
            break
        name = rng.choice(list(tensors))
        tensor, kind = tensors[name], rng.randrange(9)
        if kind == 0:
            del tensors[name]
        elif kind == 1:
            tensors[rng.choice([*NAMES[:-3], *tensors, f"{name}x"]).replace("\0", "0")] = tensors.pop(name)
        elif kind == 2:
            tensors[name] = tensor.double().to(rng.choice(TORCH_DTYPES))
        elif kind == 3:
            tensors[name] = tensor.flatten() if rng.random() < 0.5 else tensor.unsqueeze(0)
        elif kind == 4:
            tensors[name] = tensor[:-1].clone() if tensor.ndim else tensor.reshape(1)
        elif kind == 5 and tensor.is_floating_point() and tensor.numel():
            value = rng.choice([math.nan, math.inf, -math.inf, 0.0, -1.0, 1e30, 1e-30])
            tensors[name].view(-1)[rng.randrange(tensor.numel())] = value
        elif kind == 6:
            tensors[name] = torch.full_like(tensor, rng.choice([0, 1, 2]))
        elif kind == 7:
            tensors[name] = rng.choice([torch.zeros(0), torch.zeros(()), torch.zeros(0, 2**20), torch.zeros(1, 0, 3)])
        else:
            tensors[f"{name}.{rng.choice(['x', 'coefficients', 'domain', 'mix'])}"] = tensor.clone()
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})


def _near(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)) and abs(value) < 1e300:
        return rng.choice(
            [value + 1, value - 1, -value, value * 2, value * 1000, float(value), str(value), value + 0.5]
        )
    if isinstance(value, str):
        cut = rng.randrange(len(value) + 1)
        return rng.choice(
            [value[:cut], value[cut:], value + value, value.upper(), f"{value}.x", f"../{value}", [value]]
        )
    if isinstance(value, list):
        return rng.choice([value[:-1], value + value, value[::-1], dict.fromkeys(map(str, value), 1), value * 500])
    if isinstance(value, dict):
        return rng.choice([list(value.items()), list(value), {**value, "x": 1}, dict(list(value.items())[:-1])])
    return rng.choice([0, "", [], {}])


def _places(tree: Any, depth: int = 0) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield depth, tree, key
        yield from _places(value, depth + 1)


def _json_text(values: Any, rng: random.Random) -> str:
    text = json.dumps(values, ensure_ascii=rng.random() < 0.5)
    levels = rng.choice([90, 400, 100_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    deep = opening * levels + "1" + closing * rng.choice([levels, 0])
    return text.replace(HIDDEN, "").replace(f'"{DEEP}"', deep).replace(f'"{LONG}"', "9" * 5000)


def _without_surrogates(values: Any) -> Any:
    return json.loads(json.dumps(values).replace("\\ud800", "x"))
