"""Every method under one protocol, honestly and not: what choosing on test would have shown."""

import ltpost
from ltpost.comparison import compare_report
from ltpost.demo import FEW_SHOT, MANY_SHOT, demo_features

features = demo_features("ltpost-examples/demo")  # made by ltpost demo, if it is not there yet
shots = {"many_shot": MANY_SHOT, "few_shot": FEW_SHOT}

outcomes = ltpost.compare(ltpost.Experiment(features, **shots))
report = compare_report(outcomes)
print(report)  # test: chosen on val; val: cross-fitted
print(report.to_csv("ltpost-examples/compare.csv"))
report.plot().figure.savefig("ltpost-examples/compare.png")

oracle = ltpost.Experiment(features, oracle=True, **shots)
for method in ("tnorm", "la"):
    print(f"\n{oracle.run(method).report}")

print("\nfor the few-shot classes, whatever it costs the others:")
print(ltpost.Experiment(features, select="few", **shots).run("la").report)
