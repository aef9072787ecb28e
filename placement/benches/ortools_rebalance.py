"""The rebalance instances on OR-tools' CP-SAT, for comparison. The report runs it:

    pip install ortools
    python3 ortools_rebalance.py INSTANCE.json [SECONDS] [WORKERS]

Prints the cells of the report's table: status, value, bound, gap, tries and CPU time (not
measured) and wall time.
"""

import json
import sys
import time

from ortools.sat.python import cp_model


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        instance = json.load(file)
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    nodes, zones = instance["nodes"], instance["zones"]
    start = time.monotonic()
    model = cp_model.CpModel()
    load_a = [[] for _ in range(nodes)]
    load_b = [[] for _ in range(nodes)]
    for shard, weight in enumerate(instance["weights"]):
        allowed = range(instance["home_nodes"]) if instance["domiciled"][shard] else range(nodes)
        # Replicas of a shard are interchangeable: one variable for a shard on a node.
        on = {n: model.new_bool_var(f"s{shard}n{n}") for n in allowed}
        model.add(sum(on.values()) == 3)
        for zone in range(zones):
            model.add_at_most_one(v for n, v in on.items() if n % zones == zone)
        for n, v in on.items():
            load_a[n].append(weight * v)
            load_b[n].append((101 - weight) * v)
    top = model.new_int_var(0, 3 * sum(instance["weights"]), "max")
    for n in range(nodes):
        model.add(sum(load_a[n]) <= top)
        if instance["shape"] == "tight":
            model.add(sum(load_a[n]) <= instance["cap_a"])
            model.add(sum(load_b[n]) <= instance["cap_b"])
    model.minimize(top)
    built = time.monotonic() - start
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    status = solver.solve(model)
    took = time.monotonic() - start
    name = solver.status_name(status).lower()
    wall = f"{took * 1e3:.0f} (of it the model {built * 1e3:.0f})"
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        value, bound = solver.objective_value, solver.best_objective_bound
        gap = f"{(value / bound - 1) * 100:.3f}" if bound > 0 else "–"
        print(f"{name} | {value:.0f} | {bound:.0f} | {gap} | – | – | {wall}")
    else:
        print(f"{name} | – | – | – | – | – | {wall}")


if __name__ == "__main__":
    main()
