#!/usr/bin/env python3
"""Judges a history of the bank or of registers from its JSON lines (../FORMAT.md), without any code of
the checkers that the harness itself uses.

    recheck.py bank|register history.jsonl

Says "clean" and ends with 0, or says what is wrong and ends with 1.
"""

import json
import sys

OBSERVER = 4294967295


def load(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines if line.strip()]


def check_bank(history):
    """All reads of all accounts show the same total, and none shows a debt."""
    accounts = {}
    # The observer pays in before anybody moves money. What it writes after that is its end probe.
    first = min((op["start_us"] for op in history if op["client"] != OBSERVER), default=0)
    for op in history:
        if op["client"] == OBSERVER and op["outcome"] == "ok" and op["start_us"] < first:
            for step in op["steps"]:
                if step["f"] == "write":
                    accounts[step["key"]] = int(step["value"])
    if not accounts:
        return "nobody opened an account"
    total, reads = sum(accounts.values()), 0
    for op in history:
        if op["outcome"] != "ok" or any(step["f"] != "read" for step in op["steps"]):
            continue
        seen = {step["key"]: step.get("value") for step in op["steps"]}
        if set(seen) != set(accounts):
            continue
        reads += 1
        if None in seen.values():
            return "an account is gone: %s" % op
        balances = [int(value) for value in seen.values()]
        if sum(balances) != total:
            return "the accounts hold %d, and %d was paid in: %s" % (sum(balances), total, op)
        if min(balances) < 0:
            return "a debt: %s" % op
    return None if reads else "no read of all accounts to judge"


def apply(op, value):
    """The register after an operation, and whether it could have been answered so."""
    for step in op["steps"]:
        f = step["f"]
        known = op["outcome"] == "ok"
        if f == "read":
            if known and "value" in step and step["value"] != value:
                return None, False
        elif f == "write":
            value = step["value"]
        elif f == "delete":
            value = None
        elif f == "insert":
            if known and "found" in step and step["found"] != value:
                return None, False
            if value is None:
                value = step["value"]
        else:
            raise SystemExit("a register has no step %s" % f)
    return value, True


def linearizable(ops):
    """Goes through calls and returns in order of time, with the set of all configurations that explain
    what was seen so far: which of the open operations have taken effect, and the value after them."""
    events = []
    for i, op in enumerate(ops):
        events.append((op["start_us"], 0, i))
        if op["outcome"] == "ok":
            events.append((op["end_us"], 1, i))
    events.sort()
    configurations = {(frozenset(), None)}
    open_ops = set()
    for _, returns, i in events:
        if not returns:
            open_ops.add(i)
            continue
        # Whoever returns must have taken effect: let open operations take effect, in all orders.
        reached, work = set(), list(configurations)
        seen = set(work)
        while work:
            done, value = work.pop()
            if i in done:
                reached.add((done - {i}, value))
                continue
            for j in open_ops - done:
                after, possible = apply(ops[j], value)
                state = (done | {j}, after)
                if possible and state not in seen:
                    seen.add(state)
                    work.append(state)
        if not reached:
            return ops[i]
        open_ops.discard(i)
        configurations = reached
    return None


def check_register(history):
    """Every key by itself is linearizable."""
    keys = {}
    for op in history:
        if op["outcome"] != "failed":
            keys.setdefault(op["steps"][0]["key"], []).append(op)
    if not keys:
        return "no operation to judge"
    for key, ops in sorted(keys.items()):
        # Nobody saw the value of an unknown write: it may be the last of all.
        seen = set()
        for op in ops:
            for step in op["steps"]:
                seen.add(step.get("found"))
                if step["f"] == "read":
                    seen.add(step.get("value"))
        ops = [
            op
            for op in ops
            if op["outcome"] == "ok"
            or any(s["f"] == "delete" or (s["f"] != "read" and s["value"] in seen) for s in op["steps"])
        ]
        wrong = linearizable(ops)
        if wrong:
            return "%s: no order explains %s" % (key, wrong)
    return None


def main():
    checks = {"bank": check_bank, "register": check_register}
    if len(sys.argv) != 3 or sys.argv[1] not in checks:
        raise SystemExit(__doc__)
    wrong = checks[sys.argv[1]](load(sys.argv[2]))
    print(wrong or "clean")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
