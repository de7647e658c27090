"""Tau-normalization step by step: the exact curve on val, the best tau, the figures on test, the head."""

import ltpost
from ltpost.demo import FEW_SHOT, MANY_SHOT, demo_features

features = demo_features("ltpost-examples/demo")  # made by ltpost demo, if it is not there yet
val, test = ltpost.load(features / "val.h5"), ltpost.load(features / "test.h5")
groups = val.shot_groups(MANY_SHOT, FEW_SHOT)
print(f"classes of each group by training samples: {groups}")

family = ltpost.tau_norm(val.head)
curve = family.curve(val, groups)  # accuracy at every tau, from one pass over val
print(curve.to_frame([0, 0.5, 1, 1.5, 2]).round(3))

best = curve.best("all", low=0, high=2)
print(f"best tau {best.tau:.3f}, equally good from {best.low:.3f} to {best.high:.3f}: {best.score:.2%}")

head = family.head(best.tau)
print(f"weight norms before {val.head.norms().round(2)}")
print(f"              after {head.norms().round(2)}")

print(ltpost.evaluate(test.joint, test, groups, name="joint"))
print(ltpost.evaluate(head, test, groups, name="tnorm"))
print("saved as", head.save("ltpost-examples/tnorm.safetensors"))
