"""Answers held to JSON schemas, by a model of random weights that would write anything else."""

import json
import random
import re
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.protocol import Cancel, Failed, Finished, Submit
from mlx_ollama.worker.constraint import Constraint
from mlx_ollama.worker.format_schema import prepared
from mlx_ollama.worker.grammar import Grammars
from mlx_ollama.worker.parse.parser import Gate
from tests.worker.test_engine import PROMPTS, Machine, submit

SCHEMAS = 1000
CHUNKS = 8
LIMIT = 320
WORDS = ["alpha", "beta gamma", "δ", "e/f", 'g"h', "i\\j"]


def _schema(generator: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema that few tokens can satisfy: everything in it is bounded."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "bounded"]
    kinds += ["object", "object", "array", "anyOf", "$ref", "nullable"] if depth else []
    match generator.choice(kinds):
        case "string":
            return {"type": "string", "maxLength": generator.randint(0, 6)}
        case "integer":
            low = generator.randint(-50, 50)
            return {"type": "integer", "minimum": low, "maximum": low + generator.randint(0, 1000)}
        case "number":
            low = generator.randint(-9, 9)
            return {"type": "number", "minimum": low, "maximum": low + generator.randint(1, 9)}
        case "boolean":
            return {"type": "boolean"}
        case "null":
            return {"type": "null"}
        case "enum":
            return {"enum": generator.sample([*WORDS, 1, 2.5, None, True], k=3)}
        case "const":
            return {"const": generator.choice([*WORDS, 7, {"a": [1]}])}
        case "bounded":
            return {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-c]+$"}
        case "array":
            least = generator.randint(0, 2)
            items = _schema(generator, depth - 1, definitions)
            return {"type": "array", "items": items, "minItems": least, "maxItems": least + generator.randint(0, 2)}
        case "anyOf":
            return {"anyOf": [_schema(generator, depth - 1, definitions) for _ in range(2)]}
        case "nullable":
            return {"type": ["string", "null"], "maxLength": 5}
        case "$ref":
            name = f"d{len(definitions)}"
            definitions[name] = {}
            definitions[name] = _schema(generator, depth - 1, definitions)
            return {"$ref": f"#/$defs/{name}"}
    properties = {f"p{at}": _schema(generator, depth - 1, definitions) for at in range(generator.randint(1, 4))}
    required = [name for name in properties if generator.random() < 0.6]
    return {"type": "object", "properties": properties, "required": required}


def _whole_schema(seed: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    schema = _schema(random.Random(seed), 3, definitions)
    return schema | ({"$defs": definitions} if definitions else {})


def _held(request: int, schema: Any, **changes: Any) -> Submit:
    plain = submit(request, PROMPTS[request % len(PROMPTS)], **{"limit": LIMIT, **changes})
    return Submit(plain.id, plain.prompt, plain.sampling, plain.want_context, json.dumps(schema))


@pytest.fixture(scope="module")
def ending(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that may end its answers."""
    from tests.support.tiny import write_tiny_model  # noqa: PLC0415 - only some processes need mlx

    return write_tiny_model(tmp_path_factory.mktemp("ending"), ends=True)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_finished_answer_validates(chunk: int, ending: Path) -> None:
    schemas = {seed: _whole_schema(seed) for seed in range(chunk, SCHEMAS, CHUNKS)}
    machine = Machine(ending)
    machine.run([_held(seed, schema, temperature=1.0, seed=seed) for seed, schema in schemas.items()], turns=20_000)
    failed = [frame for frame in machine.sent if isinstance(frame, Failed)]
    assert not failed
    finished = [seed for seed in schemas if machine.finished(seed).reason == "stop"]
    assert len(finished) >= 0.8 * len(schemas)
    for seed in finished:
        Draft202012Validator(schemas[seed]).validate(json.loads(machine.text(seed)))


def test_company_changes_nothing_and_is_not_changed(ending: Path) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "maxItems": 5}
    together, alone = Machine(ending), Machine(ending)
    together.run([_held(1, schema), submit(2, PROMPTS[2]), _held(3, {"type": "string", "maxLength": 9})])
    alone.run([_held(1, schema)])
    alone.run([submit(2, PROMPTS[2])])
    assert together.text(1) == alone.text(1)
    assert together.text(2) == alone.text(2)


def test_a_grammar_that_fails_fails_alone(ending: Path) -> None:
    machine, alone = Machine(ending), Machine(ending)
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 50}
    machine.engine.turn([_held(1, endless), submit(2, PROMPTS[2])])
    while len(machine.engine._by_handle) < 2:
        machine.engine.turn([])
    constraint = machine.engine._streams[1].processors[-1]
    assert isinstance(constraint, Constraint)
    constraint._matcher.consume_token(next(iter(machine.end_tokens)))
    machine.run()
    (failed,) = [frame for frame in machine.sent if isinstance(frame, Failed)]
    assert (failed.id, failed.kind) == (1, "failed")
    assert failed.reason.startswith("the format could not be followed: ")
    alone.run([submit(2, PROMPTS[2])])
    assert machine.text(2) == alone.text(2)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "foo"}, "invalid format: Invalid type: foo"),
        ({"type": "string", "pattern": "("}, "invalid format: regex parse error: ( ^ error: unclosed group"),
        ({"$ref": "#/nope"}, "invalid format: Pointer '/nope' does not exist"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "invalid format: "),
    ],
)
def test_what_is_no_schema_is_refused_at_once(schema: Any, reason: str, ending: Path) -> None:
    machine = Machine(ending)
    machine.run([_held(1, schema), submit(2, PROMPTS[0])])
    (failed,) = [frame for frame in machine.sent if isinstance(frame, Failed)]
    assert (failed.id, failed.kind) == (1, "invalid")
    assert failed.reason.startswith(reason)
    assert machine.finished(2)


def test_cancelled_while_its_grammar_is_compiled(ending: Path) -> None:
    machine = Machine(ending)
    machine.run([_held(1, {"type": "string", "maxLength": 5000})], [Cancel(1)])
    assert not [frame for frame in machine.sent if isinstance(frame, Failed)]


def test_thoughts_come_first_and_are_free(ending: Path) -> None:
    machine = Machine(ending)
    tokenizer = machine.tokenizer
    matcher = Grammars(tokenizer, machine.end_tokens).compile('{"type":"integer"}').result()
    held = Constraint(matcher, tokenizer, machine.end_tokens, Gate("</t>", opening="<t>", bridge="="))
    flat, end = mx.zeros((1, tokenizer.size)), min(machine.end_tokens)
    said = [5]

    def allowed() -> set[int]:
        logits = held(said, flat)
        return set(np.flatnonzero(np.isfinite(np.array(logits)[0])).tolist())

    def spelled(tokens: set[int]) -> bytes:
        return b"".join(tokenizer.token_bytes(token) for token in tokens)

    first, *others = tokenizer.encode_plain("<t>")
    # A model that does not want to think may answer at once.
    either = allowed()
    assert first in either
    assert set(spelled(either)) <= set(b"<-0123456789")
    said.append(first)
    for token in others:
        assert allowed() == {token}
        said.append(token)
    for token in tokenizer.encode_plain("I { think </t"):
        free = allowed()
        assert len(free) == tokenizer.size - len(machine.end_tokens)
        assert end not in free
        said.append(token)
    allowed()
    said.append(tokenizer.encode_plain(">")[0])
    assert allowed() == set(tokenizer.encode_plain("="))
    said += tokenizer.encode_plain("=")
    assert set(spelled(allowed())) <= set(b"-0123456789")
    said.append(tokenizer.encode_plain("7")[0])
    assert end in allowed()


def test_an_answer_without_thoughts_is_held_from_its_beginning(ending: Path) -> None:
    machine = Machine(ending)
    matcher = Grammars(machine.tokenizer, machine.end_tokens).compile('{"type":"integer"}').result()
    held = Constraint(matcher, machine.tokenizer, machine.end_tokens, Gate("</t>", opening="<t>"))
    flat, seven = mx.zeros((1, machine.tokenizer.size)), machine.tokenizer.encode_plain("7")[0]
    held([5], flat)
    allowed = np.flatnonzero(np.isfinite(np.array(held([5, seven], flat))[0])).tolist()
    assert set(b"".join(machine.tokenizer.token_bytes(token) for token in allowed if token > 2)) <= set(b"0123456789")
    assert min(machine.end_tokens) in allowed


def test_a_token_may_hold_the_gate_and_the_beginning(ending: Path) -> None:
    machine = Machine(ending)
    matcher = Grammars(machine.tokenizer, machine.end_tokens).compile('{"type":"integer"}').result()
    held = Constraint(matcher, machine.tokenizer, machine.end_tokens, Gate("</t>"))
    held._think(b"so </")
    held._think(b"t>\n 12")
    logits = np.array(held([5], mx.zeros((1, machine.tokenizer.size))))[0]
    assert np.isfinite(logits[min(machine.end_tokens)])


def _copy(schema: Any) -> Any:
    return json.loads(json.dumps(schema))


def test_objects_are_closed_where_that_loses_nothing() -> None:
    inner: dict[str, Any] = {"type": "object", "properties": {"b": {}}}
    schema = {"properties": {"a": inner, "not": {"properties": {"c": {}}}}, "$defs": {"d": {"properties": {"e": {}}}}}
    assert prepared(schema)["additionalProperties"] is False
    assert inner["additionalProperties"] is False
    assert schema["properties"]["not"]["additionalProperties"] is False
    assert schema["$defs"]["d"]["additionalProperties"] is False


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {}, "additionalProperties": True},
        {"type": "object"},
        {"properties": {}, "allOf": [{"properties": {"c": {}}}]},
        {"properties": {}, "anyOf": [{"properties": {"c": {}}}]},
        {"$ref": "#/$defs/base", "properties": {"x": {}}, "$defs": {"base": {"properties": {"y": {}}}}},
        {"const": {"properties": {"a": 1}}},
        {"enum": [{"properties": {"a": 1}}], "default": {"properties": {}}},
    ],
)
def test_what_is_joined_or_only_a_value_stays_open(schema: Any) -> None:
    assert prepared(_copy(schema)) == schema


@pytest.mark.parametrize(
    "schema",
    [
        {
            "type": "object",
            "properties": {"kind": {"enum": ["a", "b"]}},
            "required": ["kind"],
            "oneOf": [
                {"properties": {"kind": {"const": "a"}, "x": {"type": "null"}}, "required": ["x"]},
                {"properties": {"kind": {"const": "b"}, "y": {"type": "null"}}, "required": ["y"]},
            ],
        },
        {
            "$ref": "#/$defs/base",
            "properties": {"extra": {"type": "null"}},
            "required": ["extra", "own"],
            "$defs": {"base": {"type": "object", "properties": {"own": {"enum": [1]}}}},
        },
    ],
)
def test_joined_schemas_can_be_satisfied(schema: Any, ending: Path) -> None:
    machine = Machine(ending)
    matcher = Grammars(machine.tokenizer, machine.end_tokens).compile(json.dumps(schema)).result()
    answer = '{"kind":"a","x":null}' if "oneOf" in schema else '{"own":1,"extra":null}'
    assert matcher.consume_tokens(machine.tokenizer.encode_plain(answer)), matcher.get_error()
    assert matcher.is_accepting()


@pytest.mark.parametrize("name", ["minItems", "maxItems"])
def test_counts_that_would_take_all_memory_are_refused(name: str, ending: Path) -> None:
    machine = Machine(ending)
    schema = {"properties": {"a": {"type": "array", "items": {}, name: 100_000_000}}}
    with pytest.raises(InvalidRequest, match=f"invalid format: {name} above 10000"):
        Grammars(machine.tokenizer, machine.end_tokens).compile(json.dumps(schema)).result()


def test_nobody_waits_for_a_grammar_that_nobody_wants(ending: Path) -> None:
    machine = Machine(ending)
    blocked = threading.Event()
    machine.engine._grammars._pool.submit(blocked.wait)
    machine.engine.turn([_held(at, {"const": at}) for at in range(40)])
    machine.engine.turn([Cancel(at) for at in range(40)])
    assert not machine.engine.busy
    machine.engine.turn([_held(50, {"const": 50}), submit(51, PROMPTS[1])])
    while not any(isinstance(frame, Finished) and frame.id == 51 for frame in machine.sent):
        machine.engine.turn([])
    blocked.set()
    machine.run()
    assert machine.text(50) == "50"


def test_a_grammar_is_compiled_once(ending: Path) -> None:
    machine = Machine(ending)
    grammars = Grammars(machine.tokenizer, machine.end_tokens)
    first, second = (grammars.compile('{"type":"null"}').result() for _ in range(2))
    first.consume_tokens(machine.tokenizer.encode_plain("null"))
    assert first.is_accepting()
    assert not second.is_accepting()
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            grammars.compile('{"type":1}').result()
    assert len(grammars._compiled) == 2
    grammars.forget('{"type":1}')
    grammars._pool.submit(lambda: None).result()
    assert list(grammars._compiled) == ['{"type":"null"}']


def test_blanks_are_bounded(ending: Path) -> None:
    machine = Machine(ending)
    schema = {"type": "array", "items": {"type": "array", "items": {"type": "null"}}, "minItems": 20}
    machine.run([_held(at, schema, temperature=1.0, seed=at, limit=200) for at in range(16)])
    for at in range(16):
        blanks = re.findall(r"\s+", machine.text(at))
        assert blanks
        assert max(map(len, blanks)) <= 21
        assert not any("\n" in blank[1:] for blank in blanks)


def test_a_grammar_ends_with_its_request(ending: Path) -> None:
    machine, alone = Machine(ending), Machine(ending)
    machine.run([_held(1, {"const": 7})])
    machine.run([submit(2, PROMPTS[2]), submit(3, PROMPTS[3])])
    alone.run([submit(2, PROMPTS[2]), submit(3, PROMPTS[3])])
    assert machine.text(1) == "7"
    assert [machine.text(2), machine.text(3)] == [alone.text(2), alone.text(3)]
