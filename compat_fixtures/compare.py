#!/usr/bin/env python3
"""Replay recorded Ollama exchanges against a server and report where it differs.

usage: compare.py BASE_URL GOLDEN.jsonl [--only PREFIX] [--verbose] [--model NAME]

Each recorded line holds a request, the reference status, headers and body. Compared per case:
status; media type; CORS and Allow headers; for JSON bodies the keys, their order and value types;
for NDJSON and SSE streams the same of the first, the middle and the last lines; and, where the
record says so ("text": true), the text itself. Error messages are compared word for word unless
the record says "error": "any". Standard library only, so that it runs anywhere.
"""
import argparse
import http.client
import json
import re
import sys
from urllib.parse import urlsplit

VOLATILE = {"created_at", "modified_at", "expires_at", "digest", "id", "context", "embeddings", "embedding"}
LITERAL = {"done", "done_reason", "role", "object", "type", "finish_reason", "stop_reason", "system_fingerprint", "owned_by", "event"}
OPEN_OBJECTS = {"model_info", "projector_info", "metadata"}  # keys depend on the model


def call(base, case):
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=300)
    body = case.get("raw")
    if body is None and "body" in case:
        body = json.dumps(case["body"])
    headers = {"content-type": "application/json", **case.get("headers", {})}
    connection.putrequest(case["method"], case["path"], skip_host="host" in headers, skip_accept_encoding=True)
    payload = body.encode() if body is not None else b""
    if payload or case["method"] == "POST":
        headers["content-length"] = str(len(payload))
    for key, value in headers.items():
        connection.putheader(key, value)
    connection.endheaders(payload or None)
    response = connection.getresponse()
    data = response.read().decode("utf-8", "replace")
    connection.close()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, data


def kind(value):
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return {str: "string", list: "array", dict: "object", type(None): "null"}[type(value)]


def differ(want, got, path, skip=frozenset()):
    """Yield how got's shape differs from want's."""
    if kind(want) != kind(got):
        yield f"{path}: {kind(got)} where the reference has {kind(want)}"
        return
    if isinstance(want, dict):
        name = path.rsplit(".", 1)[-1]
        if name in OPEN_OBJECTS:
            return
        wanted = [k for k in want if k not in skip]
        given = [k for k in got if k not in skip]
        if wanted != given:
            missing = [k for k in wanted if k not in given]
            extra = [k for k in given if k not in wanted]
            if missing or extra:
                yield f"{path}: missing {missing} extra {extra}"
            else:
                yield f"{path}: key order {given} not {wanted}"
        for key in wanted:
            if key not in got or key in VOLATILE:
                if key in VOLATILE and key in got and kind(got[key]) != kind(want[key]):
                    yield f"{path}.{key}: {kind(got[key])} where the reference has {kind(want[key])}"
                continue
            if key in LITERAL and isinstance(want[key], (str, bool, type(None))):
                if want[key] != got[key]:
                    yield f"{path}.{key}: {got[key]!r} not {want[key]!r}"
            else:
                yield from differ(want[key], got[key], f"{path}.{key}", skip)
    elif isinstance(want, list) and want and got:
        yield from differ(want[0], got[0], f"{path}[0]", skip)
    elif isinstance(want, list) and bool(want) != bool(got):
        yield f"{path}: {'empty' if not got else 'filled'} array"


def lines(text):
    """NDJSON or SSE text as a list of (event, object)."""
    found, event = [], None
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("data:"):
            payload = line[5:].strip()
            found.append((event, payload if payload == "[DONE]" else json.loads(payload)))
        elif line.startswith("{"):
            found.append((None, json.loads(line)))
    return found


def text_of(rows):
    joined = []
    for _, row in rows:
        if not isinstance(row, dict):
            continue
        for choice in row.get("choices") or [{}]:
            delta = choice.get("delta") or choice.get("message") or {}
            joined.append(delta.get("content") or choice.get("text") or "")
        joined.append(row.get("response") if isinstance(row.get("response"), str) else "")
        joined.append((row.get("message") or {}).get("content") or "" if isinstance(row.get("message"), dict) else "")
        if isinstance(row.get("delta"), dict):
            joined.append(row["delta"].get("text") or "")
        elif isinstance(row.get("delta"), str) and row.get("type") == "response.output_text.delta":
            joined.append(row["delta"])
    return "".join(part for part in joined if isinstance(part, str))


def media(headers):
    return re.sub(r"\s", "", headers.get("content-type", "")).lower()


def check(case, status, headers, data):
    problems = []
    if status != case["status"]:
        return [f"status {status} not {case['status']}: {data[:120]!r}"]
    want_headers = case["response_headers"]
    if "content-type" in want_headers and media(headers) != media(want_headers):
        problems.append(f"content-type {headers.get('content-type')!r} not {want_headers['content-type']!r}")
    for name in ("access-control-allow-origin", "allow"):
        if name == "allow" and status != 405:
            continue
        if headers.get(name) != want_headers.get(name):
            problems.append(f"{name} {headers.get(name)!r} not {want_headers.get(name)!r}")
    reference = case["response"]
    if not reference.strip():
        if data.strip():
            problems.append(f"body {data[:80]!r} where the reference has none")
        return problems
    if "json" not in media(want_headers) and "event-stream" not in media(want_headers):
        if data.strip() != reference.strip():
            problems.append(f"body {data[:80]!r} not {reference[:80]!r}")
        return problems
    try:
        want, got = lines(reference), lines(data)
    except ValueError as error:
        return [*problems, f"not JSON: {error}"]
    if not got:
        return [*problems, f"no JSON lines: {data[:80]!r}"]
    if "error" in want[0][1] and status >= 400:
        if case.get("error") != "any" and want[0][1] != got[0][1]:
            first, second = json.dumps(got[0][1])[:200], json.dumps(want[0][1])[:200]
            if re.sub(r"req_\w+", "", first) != re.sub(r"req_\w+", "", second):
                problems.append(f"error {first} not {second}")
        elif case.get("error") == "any":
            problems += differ(want[0][1], got[0][1], "")
        return problems
    skip = frozenset(case.get("ignore", ()))
    if (len(want) == 1) != (len(got) == 1):
        problems.append(f"{len(got)} lines where the reference has {len(want)}")
    pairs = [(want[0], got[0]), (want[-1], got[-1])]
    if len(want) > 2 and len(got) > 2:
        pairs.insert(1, (want[1], got[1]))
        pairs.insert(2, (want[-2], got[-2]))
    for index, ((want_event, want_row), (got_event, got_row)) in enumerate(pairs):
        if want_event != got_event:
            problems.append(f"event {got_event!r} not {want_event!r}")
        elif isinstance(want_row, str) or isinstance(got_row, str):
            if want_row != got_row:
                problems.append(f"line {str(got_row)[:60]!r} not {str(want_row)[:60]!r}")
        else:
            problems += differ(want_row, got_row, f"line{'0 1 -2 -1'.split()[index] if len(pairs) == 4 else index}", skip)
    if case.get("text") and text_of(want) != text_of(got):
        problems.append(f"text {text_of(got)[:80]!r} not {text_of(want)[:80]!r}")
    return list(dict.fromkeys(problems))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("golden")
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    passed = failed = 0
    with open(args.golden) as source:
        for case in map(json.loads, source):
            if not case["name"].startswith(args.only):
                continue
            try:
                problems = check(case, *call(args.base, case))
            except (OSError, http.client.HTTPException, ValueError) as error:
                problems = [f"{type(error).__name__}: {error}"]
            passed += not problems
            failed += bool(problems)
            if problems or args.verbose:
                print("FAIL" if problems else "ok  ", case["name"], "; ".join(problems)[:400])
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
